//! The token with which a node joins: from a file or a variable.

use crate::{Done, World, bare};

#[tokio::test]
async fn a_join_token_comes_from_a_file_that_only_its_owner_can_read() {
    let world = World::new();
    let file = world.write("token", "stint1-this-is-none\n");
    let mode =
        |mode| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let data_dir = world.folder.path().join("data").display().to_string();
    let join = |more: &[&str]| {
        let start =
            ["node", "--data-dir", &data_dir, "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:7001"];
        bare(&[&start[..], &["--join", "127.0.0.1:9"], more].concat())
    };
    mode(0o644);
    let done = Done::run(join(&["--token-file", &file])).await;
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(
        done.stderr.contains(&format!("can be read by others (mode 0644): chmod 600 {file}")),
        "{}",
        done.stderr
    );
    let done = Done::run(join(&["--token-file", "/nowhere"])).await;
    assert!(done.code == 2 && done.stderr.contains("/nowhere cannot be read"), "{}", done.stderr);
    let done = Done::run(join(&[])).await;
    assert!(done.code == 2 && done.stderr.contains("--join needs --token-file FILE"), "{}", done.stderr);
    // Each is read: the token is none, and said to be so.
    mode(0o600);
    let done = Done::run(join(&["--token-file", &file])).await;
    assert!(done.code == 1 && done.stderr.contains("the join token is not one"), "{}", done.stderr);
    let mut command = join(&[]);
    command.env("STINT_JOIN_TOKEN", "stint1-neither");
    let done = Done::run(command).await;
    assert!(done.code == 1 && done.stderr.contains("the join token is not one"), "{}", done.stderr);
}
