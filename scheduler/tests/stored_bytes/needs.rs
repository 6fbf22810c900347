//! The version of the cluster that a command needs: no leader proposes it before every peer understands it.

use stint_protocol::*;
use stint_scheduler::*;

use crate::commands::number_of;
use crate::samples::{earlier, samples};
use crate::tasks::{limited_submit, spec, submit};

/// A leader proposes none of them before every peer understands it.
#[test]
fn what_has_to_do_with_images_needs_version_3() {
    for command in samples().iter().filter(|command| (15..=21).contains(&number_of(command))) {
        assert_eq!(command.needs(), version::IMAGES, "{command:?}");
    }
    let naming = |image: &str| {
        let spec = SharedSpec::new(TaskSpec { image: Some(image.into()), ..spec() });
        Command::Submit(Submit { spec, ..submit(None, None) }).needs()
    };
    assert_eq!(naming("registry.example/train:1"), version::OLDEST);
    assert_eq!(naming("stint://train"), version::IMAGES);
}

#[test]
fn changes_of_settings_need_version_5() {
    let changing = samples().into_iter().find(|command| matches!(command, Command::UpdateSettings(_)));
    assert_eq!(changing.unwrap().needs(), version::SETTINGS);
}

#[test]
fn limits_of_tasks_need_version_4() {
    let before: Vec<Command> = earlier().into_iter().map(|(_, command)| command).collect();
    let (limited, now) = (Command::Submit(limited_submit()), samples());
    // The first ones offer every runtime there is, Slurm too, which no node did before version 4.
    let offers_slurm = |command: &Command| matches!(command, Command::RegisterNode(_));
    let mut others = before.iter().filter(|command| **command != limited && !offers_slurm(command));
    assert!(others.all(|command| command.needs() < version::TASK_LIMITS));
    for command in [&limited, &now[3], &now[4]] {
        assert_eq!(command.needs(), version::TASK_LIMITS, "{command:?}");
    }
}

#[test]
fn comments_of_tasks_need_version_5() {
    assert_eq!(samples()[1].needs(), Version(5));
}

#[test]
fn access_tokens_need_version_5() {
    let of_tokens = samples().into_iter().filter(|command| (26..28).contains(&number_of(command)));
    let needs: Vec<Version> = of_tokens.map(|command| command.needs()).collect();
    assert_eq!(needs, [version::ACCESS_TOKENS; 2]);
}

#[test]
fn another_authority_needs_version_5() {
    let of_authority = samples().into_iter().filter(|command| (28..32).contains(&number_of(command)));
    let needs: Vec<Version> = of_authority.map(|command| command.needs()).collect();
    assert_eq!(needs, [version::CA_ROTATION; 4]);
}

#[test]
fn join_tokens_for_so_many_nodes_need_version_5() {
    let token = |uses| Command::AddJoinToken { hash: [7; 32], valid_ms: 1, uses };
    assert_eq!((token(None).needs(), token(Some(1)).needs()), (version::OLDEST, version::JOIN_TOKENS));
    assert_eq!(Command::RemoveJoinToken { hash: [7; 32] }.needs(), version::JOIN_TOKENS);
}
