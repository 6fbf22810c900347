//! Images on a cluster of real processes: registered through one peer, there when that one is gone, healed and swept.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use stint_sdk::{Client, Error, Source, v1};
use support::scrape::Scrape;
use support::{Choices, Cluster, PATIENCE, Setup, submit};
use tokio::time::{Duration, Instant, sleep};
use tonic::Code;

/// More than a few messages and chunks, and no multiple of them.
const SIZE: usize = 5_000_003;

fn fast(_: usize) -> String {
    "[blobs]\nreserve = \"1MiB\"\nmax_size = \"8MiB\"\nsweep_after = \"2s\"\nheal_after = \"3s\"\n".into()
}

fn setup() -> Setup {
    Setup { more: fast, ..Setup::default() }
}

/// Bytes that begin as a program does, another one for each seed.
fn program(seed: u64, size: usize) -> Vec<u8> {
    let mut choices = Choices(seed);
    let mut bytes = b"#!/bin/sh\nexit 0\n".to_vec();
    bytes.resize_with(size, || choices.below(256) as u8);
    bytes
}

fn header(tenant: &str, name: &str) -> v1::ImageHeader {
    v1::ImageHeader { tenant: tenant.into(), name: name.into(), ..v1::ImageHeader::default() }
}

async fn register(client: &Client, header: v1::ImageHeader, bytes: Vec<u8>) -> Result<v1::Image, Error> {
    let open = || {
        let source: Source = Box::pin(std::io::Cursor::new(bytes.clone()));
        async move { Ok(Some(source)) }
    };
    client.register_image(header, open, Arc::new(|_| {})).await
}

async fn get(client: &Client, tenant: &str, image: &str) -> Result<v1::Image, Error> {
    client.get_image(v1::GetImageRequest { tenant: tenant.into(), image: image.into() }).await
}

/// Where a peer keeps the bytes of an image.
fn file(cluster: &Cluster, peer: usize, image: &v1::Image) -> PathBuf {
    cluster.peers[peer].dir.join("blobs").join(image.digest.trim_start_matches("sha256:"))
}

fn holders(cluster: &Cluster, image: &v1::Image) -> Vec<usize> {
    let index = |name: &String| cluster.peers.iter().position(|peer| peer.name == *name).unwrap();
    image.nodes.iter().map(index).collect()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < until, "{what} does not happen");
        sleep(Duration::from_millis(50)).await;
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    let error = result.unwrap_err();
    (error.code().unwrap_or(Code::Unknown), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_there_when_the_peer_that_took_it_is_gone() {
    let mut cluster = Cluster::start(setup()).await;
    let bytes = program(1, SIZE);
    let image = register(&cluster.client_of(0), header("", "tool"), bytes.clone()).await.unwrap();
    assert_eq!((image.kind.as_str(), image.size_bytes, image.nodes.len()), ("executable", SIZE as u64, 2));
    assert!(image.nodes.contains(&"t1".to_string()), "{image:?}");
    cluster.peers[0].kill().await;
    let other = holders(&cluster, &image).into_iter().find(|peer| *peer != 0).unwrap();
    assert_eq!(std::fs::read(file(&cluster, other, &image)).unwrap(), bytes);
    let survivor = cluster.client_of(3 - other);
    assert_eq!(get(&survivor, "", "tool").await.unwrap(), image);
    assert_eq!(get(&survivor, "", &format!("tool@{}", image.digest)).await.unwrap(), image);
    assert_eq!(get(&survivor, "", &image.id).await.unwrap(), image);
    // With the peer that took it gone for longer, another one makes up for its copy.
    until("a third copy", async || get(&survivor, "", "tool").await.is_ok_and(|i| i.nodes.len() == 3)).await;
    assert_eq!(std::fs::read(file(&cluster, 3 - other, &image)).unwrap(), bytes);
    // A task is pinned to it; what becomes of the name does not matter to it.
    let mut task = submit("cpu_long", &[], 1);
    task.spec.as_mut().unwrap().image = "stint://tool".into();
    task.spec.as_mut().unwrap().constraints.insert("never".into(), "so".into());
    let id = survivor.submit(task).await.unwrap().task_ids.remove(0);
    let deleted = survivor
        .delete_image(v1::DeleteImageRequest { image: "tool".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(deleted.used_by, 1);
    assert_eq!(code(get(&survivor, "", "tool").await).0, Code::NotFound);
    survivor.cancel(v1::CancelRequest { tasks: vec![id], ..Default::default() }).await.unwrap();
    // Now nothing refers to the bytes, and they go from every disk that is up.
    until("the sweep", async || (1..3).all(|peer| !file(&cluster, peer, &image).exists())).await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    until("the sweep", async || !file(&cluster, 0, &image).exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lost_its_bytes_has_them_again() {
    let mut cluster = Cluster::start(setup()).await;
    let client = cluster.client();
    let bytes = program(2, SIZE);
    let image = register(&client, header("", "tool"), bytes.clone()).await.unwrap();
    let victim = holders(&cluster, &image)[0];
    cluster.peers[victim].kill().await;
    let left = cluster.peers[victim].dir.join("blobs");
    std::fs::remove_dir_all(&left).unwrap();
    // As a crash leaves it.
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("incoming-0"), b"half").unwrap();
    cluster.peers[victim].spawn(&[]);
    cluster.peers[victim].ready().await;
    let healed = file(&cluster, victim, &image);
    until("the healing", async || healed.exists()).await;
    assert_eq!(std::fs::read(&healed).unwrap(), bytes);
    assert!(!left.join("incoming-0").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_other_tenants_find_nothing() {
    let cluster = Cluster::start(setup()).await;
    let client = cluster.client();
    let small = program(3, 3_000);
    let refused = |result| code::<v1::Image>(result);
    let (at, args) = refused(register(&client, header("", "empty"), Vec::new()).await);
    assert!(at == Code::InvalidArgument && args.contains("empty"), "{args}");
    let (at, args) = refused(register(&client, header("", "large"), program(4, 9 << 20)).await);
    assert!(at == Code::InvalidArgument && args.contains("blobs.max_size"), "{args}");
    let digest = format!("sha256:{}", "00".repeat(32));
    let wrong = v1::ImageHeader { digest, ..header("", "tool") };
    let (at, args) = refused(register(&client, wrong, small.clone()).await);
    assert!(at == Code::InvalidArgument && args.contains("not sha256:0000"), "{args}");
    let wrong = v1::ImageHeader { size_bytes: Some(2_999), ..header("", "tool") };
    let (at, args) = refused(register(&client, wrong, small.clone()).await);
    assert!(at == Code::InvalidArgument && args.contains("2999 were announced"), "{args}");
    let (at, args) = refused(register(&client, header("", "../etc"), small.clone()).await);
    assert!(at == Code::InvalidArgument && args.contains("image name"), "{args}");
    let (at, args) = refused(register(&client, header("", "text"), b"just words".to_vec()).await);
    assert!(at == Code::InvalidArgument && args.contains("give the kind"), "{args}");
    for peer in 0..3 {
        let left: Vec<_> = std::fs::read_dir(cluster.peers[peer].dir.join("blobs")).unwrap().collect();
        assert!(left.iter().all(|e| !e.as_ref().unwrap().file_name().to_string_lossy().contains("incoming")));
    }
    // The same bytes under the same name in two tenants: each has its own.
    let own = register(&client, header("one", "tool"), small.clone()).await.unwrap();
    for (tenant, image) in [("two", "tool".to_string()), ("two", own.id.clone()), ("", "tool".into())] {
        assert_eq!(code(get(&client, tenant, &image).await).0, Code::NotFound, "{tenant} {image}");
    }
    let other = register(&client, header("two", "tool"), small.clone()).await.unwrap();
    assert!(other.id != own.id && other.digest == own.digest);
    let delete = |tenant: &str, image: &str| {
        client.delete_image(v1::DeleteImageRequest { tenant: tenant.into(), image: image.into() })
    };
    assert_eq!(code(delete("two", &own.id).await).0, Code::NotFound);
    delete("two", "tool").await.unwrap();
    assert_eq!(get(&client, "one", "tool").await.unwrap().id, own.id);
    // The same again is the same; a task that names none is told how to look.
    assert_eq!(register(&client, header("one", "tool"), small).await.unwrap().id, own.id);
    let mut task = submit("cpu_long", &[], 1);
    task.spec.as_mut().unwrap().image = "stint://tool".into();
    let (at, args) = code(client.submit(task).await);
    assert!(at == Code::NotFound && args.contains("`stint image ls`"), "{args}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_listed_by_name_page_by_page_from_any_peer() {
    let cluster = Cluster::start(setup()).await;
    for number in 0..7 {
        let docker = v1::ImageHeader {
            kind: "docker".into(),
            reference: format!("ghcr.io/team/web:{number}"),
            ..header("", &format!("web:{number}"))
        };
        register(&cluster.client_of(number % 3), docker, Vec::new()).await.unwrap();
    }
    register(&cluster.client(), header("other", "web:3b"), program(5, 100)).await.unwrap();
    for peer in 0..3 {
        let (client, mut found, mut after) = (cluster.client_of(peer), Vec::new(), String::new());
        loop {
            let request = v1::ListImagesRequest { limit: 3, after, ..Default::default() };
            let page = client.list_images(request).await.unwrap();
            assert!(page.images.len() <= 3);
            found.extend(page.images.into_iter().map(|image| image.reference));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        let wanted: Vec<String> = (0..7).map(|number| format!("ghcr.io/team/web:{number}")).collect();
        assert_eq!(found, wanted);
    }
}

/// Runs on whichever node has room, the peer that took it gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_runs_an_image_when_the_peer_that_took_it_is_gone() {
    let mut cluster = Cluster::start(setup()).await;
    let script = b"#!/bin/sh\necho this is \"$1\"\n".to_vec();
    register(&cluster.client_of(0), header("", "tool"), script).await.unwrap();
    cluster.peers[0].kill().await;
    let client = cluster.client_of(1);
    let mut task = submit("cpu_long", &["the argument"], 4);
    task.spec.as_mut().unwrap().image = "stint://tool".into();
    let ids = client.submit(task).await.unwrap().task_ids;
    for task in cluster.finish(&ids, PATIENCE).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
        let request = v1::LogsRequest { task: task.id, stream: "stdout".into(), ..Default::default() };
        let chunk = client.logs(request).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(chunk.data, b"this is the argument\n");
    }
    let pulled = "stint_image_pull_duration_seconds_count{outcome=\"pulled\",source=\"cluster\"}";
    let counts: Vec<f64> = cluster.peers[1..].iter().map(|peer| Scrape::read(peer).value(pulled)).collect();
    assert!(
        counts.contains(&1.0) && counts.iter().all(|count| *count <= 1.0),
        "unpacked once a node: {counts:?}"
    );
}

/// With two of three peers there is one copy besides, with one there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_needs_its_copies_before_it_is_acknowledged() {
    let all = |_| "[blobs]\ncopies = 3\nreserve = \"1MiB\"\n".into();
    let mut cluster = Cluster::start(Setup { more: all, ..Setup::default() }).await;
    let bytes = program(6, SIZE);
    let image = register(&cluster.client_of(1), header("", "three"), bytes.clone()).await.unwrap();
    let mut nodes = image.nodes.clone();
    nodes.sort();
    assert_eq!(nodes, ["t1", "t2", "t3"]);
    for peer in 0..3 {
        assert_eq!(std::fs::read(file(&cluster, peer, &image)).unwrap(), bytes);
    }
    cluster.peers[2].kill().await;
    let survivor = cluster.client_of(0);
    let request = register(&survivor, header("", "two"), program(7, 10_000));
    let error = tokio::time::timeout(PATIENCE, request).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("2 of 3 copies"), "{error}");
    assert_eq!(code(get(&cluster.client_of(1), "", "two").await).0, Code::NotFound);
}
