//! Settings of the cluster, of classes and of tenants: shown, and changed.

use stint_sdk::v1;

use crate::World;

#[tokio::test]
async fn settings_are_shown_and_changed() {
    let world = World::new();
    let class = |class: &str| v1::ClassSettings {
        class: class.into(),
        runtimes: vec!["crun".into()],
        lease_ttl_ms: 15_000,
        ..Default::default()
    };
    let setting = v1::ChangedSetting { key: "classes.gpu.max_gpus".into(), from: "1".into(), to: "4".into() };
    let change = v1::SettingsChange {
        revision: 7,
        role: "admin".into(),
        proof: "local_socket".into(),
        peer: "a".into(),
        settings: vec![setting],
        ..Default::default()
    };
    *world.fake.settings.lock().unwrap() = v1::Settings {
        revision: 7,
        cluster: Some(v1::ClusterSettings { placement: "spread".into(), ..Default::default() }),
        classes: vec![class("cpu_long"), class("gpu")],
        changes: vec![change],
        ..Default::default()
    };
    let done = world.stint(&["cluster", "show", "-o", "json"]).await;
    assert_eq!(
        (done.json()["revision"].as_u64(), done.json()["cluster"]["placement"].as_str()),
        (Some(7), Some("spread"))
    );
    let done = world.stint(&["class", "show", "gpu", "--history"]).await;
    assert!(done.stdout.starts_with("KEY              gpu\nruntimes         crun\n"), "{}", done.stdout);
    assert!(
        done.stdout.contains("classes.gpu.max_gpus  1     4   admin (local_socket)  a\n"),
        "{}",
        done.stdout
    );
    let args = ["class", "set", "gpu", "max_gpus=4", "lease_ttl=20s", "--if-revision", "6"];
    let done = world.stint(&args).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stderr, "stint: nothing to change; the settings keep revision 7\n");
    let asked = world.fake.updates.lock().unwrap()[0].clone();
    assert_eq!((asked.class.as_str(), asked.if_revision), ("gpu", Some(6)));
    assert_eq!((asked.values["max_gpus"].as_str(), asked.values["lease_ttl"].as_str()), ("4", "20s"));
    let done = world.stint(&["cluster", "set", "placement=spread", "placement=bin_pack"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (2, "stint: placement is given twice: keep one\n"));
    let done = world.stint(&["class", "set", "gup", "max_gpus=4"]).await;
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("gpu_slurm"), "{}", done.stderr);
    assert_eq!(world.fake.updates.lock().unwrap().len(), 1, "nothing else was asked for");
}

#[tokio::test]
async fn rules_of_tenants_are_shown_and_changed() {
    let world = World::new();
    let rules = |tenant: &str, max_priority, weight| v1::TenantSettings {
        tenant: tenant.into(),
        max_priority,
        weight,
        uid: (tenant != "default").then_some(200_001),
        dedicated: weight > 1,
        allowed_images: ["ghcr.io/team-7/*", "stint://tool"][..weight as usize - 1]
            .iter()
            .map(|p| p.to_string())
            .collect(),
    };
    let setting = |key: &str| v1::ChangedSetting { key: key.into(), from: "1".into(), to: "3".into() };
    let change = v1::SettingsChange {
        revision: 7,
        settings: vec![setting("tenants.team-7.weight"), setting("classes.gpu.max_gpus")],
        ..Default::default()
    };
    *world.fake.settings.lock().unwrap() = v1::Settings {
        revision: 7,
        tenants: vec![rules("default", 100, 1), rules("team-7", 80, 3)],
        changes: vec![change],
        ..Default::default()
    };
    let done = world.stint(&["tenant", "show"]).await;
    let expected = "\
TENANT    MAX_PRIORITY  WEIGHT  UID     DEDICATED  ALLOWED_IMAGES
default   100           1       -       false      any
team-7    80            3       200001  true       ghcr.io/team-7/*,stint://tool
(others)  50            1       -       false      any
";
    assert_eq!(done.stdout, expected);
    let done = world.stint(&["tenant", "show", "team-7", "--history"]).await;
    assert!(
        done.stdout
            .starts_with("TENANT  MAX_PRIORITY  WEIGHT  UID     DEDICATED  ALLOWED_IMAGES\nteam-7  80            3       200001  true       ghcr.io/team-7/*,stint://tool\n\n"),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("tenants.team-7.weight") && !done.stdout.contains("gpu"), "{}", done.stdout);
    let done = world.stint(&["tenant", "show", "team-7", "-o", "json"]).await;
    assert_eq!(done.json()["tenants"].as_array().map(Vec::len), Some(1));
    let args = ["tenant", "set", "team-7", "--max-priority", "80", "--weight", "3", "--if-revision", "7"];
    let done = world.stint(&args).await;
    assert_eq!(
        (done.code, done.stderr.as_str()),
        (0, "stint: nothing to change; the settings keep revision 7\n")
    );
    let done = world.stint(&["tenant", "set", "team-7", "--images", "ghcr.io/a/*, stint://b"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(world.fake.updates.lock().unwrap()[1].values["images"], "ghcr.io/a/*,stint://b");
    for (at, (flag, value)) in
        [("--dedicated", "true"), ("--dedicated=false", "false")].into_iter().enumerate()
    {
        let done = world.stint(&["tenant", "set", flag, "team-7"]).await;
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(world.fake.updates.lock().unwrap()[2 + at].values["dedicated"], value);
    }
    for (wrong, said) in
        [("", "names no image"), ("any,a", "\"any\" stands alone"), ("docker://x", "no pattern")]
    {
        let done = world.stint(&["tenant", "set", "team-7", "--images", wrong]).await;
        assert!(done.code == 2 && done.stderr.contains(said), "{wrong}: {}", done.stderr);
    }
    let asked = world.fake.updates.lock().unwrap()[0].clone();
    assert_eq!((asked.tenant.as_str(), asked.class.as_str(), asked.if_revision), ("team-7", "", Some(7)));
    assert_eq!((asked.values["max_priority"].as_str(), asked.values["weight"].as_str()), ("80", "3"));
}
