//! Formats of values that several keys share: numbers, amounts, words, lists. Variables and flags arrive as text, so each
//! format takes text too; what does not fit is refused with what to write instead.

use std::time::Duration;

use stint_executor::Pull;
use stint_protocol::{Class, Network, Role, Runtime, UnknownWord};
use stint_scheduler::Placement;
use stint_sdk::units;
use toml::Value;

use super::describe::Format;
use super::texts::{text, texts};
use super::users::RunAs;
use super::{LogFormat, RaftProfile};

/// Why a value does not fit its key, in words that follow the key's name.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    #[error("{0}")]
    Rule(String),
    #[error(transparent)]
    Amount(#[from] units::InvalidAmount),
    #[error(transparent)]
    Word(#[from] UnknownWord),
}

impl From<String> for Misfit {
    fn from(message: String) -> Self {
        Self::Rule(message)
    }
}

impl From<&str> for Misfit {
    fn from(message: &str) -> Self {
        Self::Rule(message.into())
    }
}

/// A whole number in a range.
pub struct Whole(pub u64, pub u64);

impl<T: TryFrom<u64> + Copy + TryInto<i64>> Format<T> for Whole {
    fn kind(&self) -> String {
        format!("number, {} to {}", self.0, self.1)
    }

    fn read(&self, value: &Value) -> Result<T, Misfit> {
        let number = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let fitting = number.filter(|n| (self.0..=self.1).contains(n)).and_then(|n| T::try_from(n).ok());
        fitting.ok_or_else(|| format!("{value} is not a whole number from {} to {}", self.0, self.1).into())
    }

    fn show(&self, value: &T) -> Option<Value> {
        (*value).try_into().ok().map(Value::Integer)
    }
}

/// An amount of memory or disk, so many bytes at least.
pub struct Bytes(pub u64);

impl Format<u64> for Bytes {
    fn kind(&self) -> String {
        "size".into()
    }

    fn read(&self, value: &Value) -> Result<u64, Misfit> {
        let bytes = match value {
            Value::String(text) => units::parse_bytes(text)?,
            Value::Integer(number) => u64::try_from(*number).unwrap_or(0),
            _ => Err(format!("{value} is not an amount of memory: write for example \"8GiB\""))?,
        };
        match bytes {
            0 => Err("must be more than 0: write for example \"8GiB\"".into()),
            _ if bytes < self.0 => Err(format!("must be {} bytes or more", self.0).into()),
            _ => Ok(bytes),
        }
    }

    fn show(&self, value: &u64) -> Option<Value> {
        Some(units::exact_bytes(*value).into())
    }
}

/// A duration, held in milliseconds or as what it is.
pub struct Time;

impl Format<u64> for Time {
    fn kind(&self) -> String {
        "duration".into()
    }

    fn read(&self, value: &Value) -> Result<u64, Misfit> {
        let wrong = || format!("{value} is not a duration: write for example \"15m\", in quotes");
        match units::parse_duration(value.as_str().ok_or_else(wrong)?)?.as_millis() as u64 {
            0 => Err("must be more than 0".into()),
            milliseconds => Ok(milliseconds),
        }
    }

    fn show(&self, value: &u64) -> Option<Value> {
        Some(units::exact_duration(*value).into())
    }
}

impl Format<Duration> for Time {
    fn kind(&self) -> String {
        Format::<u64>::kind(self)
    }

    fn read(&self, value: &Value) -> Result<Duration, Misfit> {
        Format::<u64>::read(self, value).map(Duration::from_millis)
    }

    fn show(&self, value: &Duration) -> Option<Value> {
        Format::<u64>::show(self, &(value.as_millis() as u64))
    }
}

/// Cores, held in thousandths.
pub struct Cores;

impl<T: TryFrom<u64> + Copy + Into<u64>> Format<T> for Cores {
    fn kind(&self) -> String {
        "cores".into()
    }

    fn read(&self, value: &Value) -> Result<T, Misfit> {
        let wrong = || format!("{value} is not a number of cores: write for example 4 or 0.5");
        let milli = match value {
            Value::String(text) => units::parse_cpus(text)?,
            _ => {
                let cores = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
                cores.and_then(units::cpus_to_milli).ok_or_else(wrong)?
            }
        };
        T::try_from(milli).map_err(|_| wrong().into())
    }

    fn show(&self, value: &T) -> Option<Value> {
        let milli: u64 = (*value).into();
        Some(match milli % 1000 {
            0 => ((milli / 1000) as i64).into(),
            _ => (milli as f64 / 1000.0).into(),
        })
    }
}

/// 0, or as the other format has it.
pub struct OrZero<F>(pub F);

impl<T: Default, F: Format<T>> Format<T> for OrZero<F> {
    fn kind(&self) -> String {
        self.0.kind()
    }

    fn read(&self, value: &Value) -> Result<T, Misfit> {
        match value {
            Value::Integer(0) => Ok(T::default()),
            Value::String(text) if matches!(text.as_str(), "0" | "0B") => Ok(T::default()),
            _ => self.0.read(value),
        }
    }

    fn show(&self, value: &T) -> Option<Value> {
        self.0.show(value)
    }
}

/// A value that has no default.
pub struct Optional<F>(pub F);

impl<T, F: Format<T>> Format<Option<T>> for Optional<F> {
    fn kind(&self) -> String {
        self.0.kind()
    }

    fn read(&self, value: &Value) -> Result<Option<T>, Misfit> {
        self.0.read(value).map(Some)
    }

    fn show(&self, value: &Option<T>) -> Option<Value> {
        self.0.show(value.as_ref()?)
    }
}

/// Texts of one format, as a list or separated by commas.
pub struct List<F>(pub F);

impl<T, F: Format<T>> Format<Vec<T>> for List<F> {
    fn kind(&self) -> String {
        format!("list of {}s", self.0.kind())
    }

    fn read(&self, value: &Value) -> Result<Vec<T>, Misfit> {
        texts(value)?.into_iter().map(|text| self.0.read(&text.into())).collect()
    }

    fn show(&self, value: &Vec<T>) -> Option<Value> {
        Some(Value::Array(value.iter().filter_map(|item| self.0.show(item)).collect()))
    }
}

/// A list of folders, so many at most.
pub struct AtMost<F>(pub usize, pub F);

impl<T, F: Format<Vec<T>>> Format<Vec<T>> for AtMost<F> {
    fn kind(&self) -> String {
        self.1.kind()
    }

    fn read(&self, value: &Value) -> Result<Vec<T>, Misfit> {
        let list = self.1.read(value)?;
        match list.len() {
            count if count > self.0 => Err(format!("names {count}; {} at most", self.0).into()),
            _ => Ok(list),
        }
    }

    fn show(&self, value: &Vec<T>) -> Option<Value> {
        self.1.show(value)
    }
}

/// A value that is one of a few words.
pub trait Word: Copy + PartialEq + 'static {
    /// Those that the reference names.
    const KNOWN: &'static [Self];

    fn word(&self) -> &'static str;

    fn named(word: &str) -> Result<Self, Misfit> {
        let found = Self::KNOWN.iter().find(|known| known.word() == word).copied();
        found.ok_or_else(|| format!("{word:?} is unknown: use one of {}", known::<Self>()).into())
    }
}

macro_rules! message {
    ($($type:ty, $known:expr $(, $named:expr)?;)*) => {$(
        impl Word for $type {
            const KNOWN: &'static [Self] = &$known;

            fn word(&self) -> &'static str {
                self.as_str()
            }

            $(fn named(word: &str) -> Result<Self, Misfit> {
                $named(word)
            })?
        }
    )*};
}

message! {
    Class, Class::ALL, |word: &str| Ok(word.parse()?);
    // The mock is for tests, and named by its word alone.
    Runtime, [Runtime::Process, Runtime::Crun, Runtime::Docker, Runtime::Slurm], |word: &str| Ok(word.parse()?);
    Network, Network::ALL, |word: &str| Ok(word.parse()?);
    Role, Role::ALL, |word: &str| Ok(word.parse()?);
    Pull, Pull::ALL;
    RunAs, RunAs::ALL;
    RaftProfile, RaftProfile::ALL;
    LogFormat, LogFormat::ALL;
    Placement, Placement::ALL;
}

fn known<T: Word>() -> String {
    T::KNOWN.iter().map(T::word).collect::<Vec<_>>().join(", ")
}

/// One of the words of a type.
pub struct OneWord;

impl<T: Word> Format<T> for OneWord {
    fn kind(&self) -> String {
        known::<T>()
    }

    fn read(&self, value: &Value) -> Result<T, Misfit> {
        T::named(&text(value)?)
    }

    fn show(&self, value: &T) -> Option<Value> {
        Some(value.word().into())
    }
}

/// Some of the words of a type, each once.
pub struct Words;

impl<T: Word> Format<Vec<T>> for Words {
    fn kind(&self) -> String {
        format!("list of {}", known::<T>())
    }

    fn read(&self, value: &Value) -> Result<Vec<T>, Misfit> {
        let mut known: Vec<T> = Vec::new();
        for word in texts(value)? {
            let item = T::named(&word)?;
            if known.contains(&item) {
                Err(format!("{word:?} stands there twice: keep one"))?;
            }
            known.push(item);
        }
        Ok(known)
    }

    fn show(&self, value: &Vec<T>) -> Option<Value> {
        List(OneWord).show(value)
    }
}
