//! Refusals: what cannot be understood, is refused or reaches nobody has an exit code of its own and says why.

use tonic::Status;

use crate::{Done, World, bare};

#[tokio::test]
async fn what_cannot_be_understood_ends_with_2() {
    let world = World::new();
    let file = world.write("t.toml", "memroy = \"1GiB\"\n");
    let cases: [(&[&str], &str); 7] = [
        (&["submit", "--count", "0", "--", "x"], "0 is not in 1.."),
        (&["submit", "-f", &file], "memroy: unknown key (did you mean \"memory\"?)"),
        (&["submit", "--timeout", "60", "--", "x"], "unit is missing"),
        (&["submit", "-e", "A", "--", "x"], "KEY=VALUE"),
        (&["submit"], "nothing to run"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["--address", "http://x", "ps"], "no plain text"),
    ];
    for (args, part) in cases {
        let done = world.stint(args).await;
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{args:?}: {}", done.stderr);
    }
    assert_eq!(world.fake.calls(), 0);
}

#[tokio::test]
async fn a_refusal_ends_with_1_and_says_why() {
    let world = World::new();
    world.fake.fail_next([Status::invalid_argument("timeout: 61000 ms is over the cap")]);
    let done = world.stint(&["submit", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert_eq!(done.stderr, "stint: refused: timeout: 61000 ms is over the cap\n");
}

#[tokio::test]
async fn no_peer_ends_with_3_and_says_where_it_looked() {
    let mut command = bare(&["ps"]);
    command.env("STINT_ADDRESS", "unix:/nonexistent/stint.sock");
    let done = Done::run(command).await;
    assert_eq!(done.code, 3, "{}", done.stderr);
    let expected = "stint: cannot list tasks: unix:/nonexistent/stint.sock: No such file or directory";
    assert!(done.stderr.starts_with(expected), "{}", done.stderr);
}
