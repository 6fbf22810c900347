//! What decodes requests of clients, as the fuzzer and the replay of its corpus call it.

use stint_protocol::v1::prost::Message;
use stint_protocol::{Class, ClassRules, v1};

use super::{convert, native};
use crate::config::replicated;
use crate::decoders::round;
use crate::service::{Principal, Proof};
use crate::wire;

fn caller() -> Principal {
    Principal::administrator(Proof::LocalSocket)
}

/// A request of a client: the number of its kind, and its message.
pub fn grpc(bytes: &[u8]) {
    let Some((number, body)) = bytes.split_first() else { return };
    match number % 4 {
        0 | 1 => {
            let Ok(request) = v1::SubmitRequest::decode(body) else { return };
            let Ok(new) = convert::new_tasks(&caller(), request) else { return };
            for class in [Class::CpuShort, Class::Gpu] {
                let Ok(spec) = new.spec.clone().resolve(&ClassRules::default_for(class)) else { continue };
                let _ = (spec.weight(), spec.least_lease_ms());
                round::<stint_protocol::SharedSpec>(&wire::encode(&stint_protocol::SharedSpec::new(spec)));
            }
        }
        2 => {
            let Ok(request) = v1::UpdateSettingsRequest::decode(body) else { return };
            let Ok(update) = convert::settings_update(request) else { return };
            for setting in replicated::read(&update.of, &update.values).unwrap_or_default() {
                let _ = (replicated::key(&setting), replicated::value(&setting));
            }
        }
        _ => {
            let Ok(request) = v1::ListTasksRequest::decode(body) else { return };
            let _ = native::filter(&caller(), &request);
        }
    }
}
