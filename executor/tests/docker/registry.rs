//! Registries on loopback, for the tests of pulls: one with an image, and one that refuses.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

fn sha256(file: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    format!("sha256:{}", String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap())
}

/// A registry on loopback with one image, whose manifest it refuses to give `failures` times. With a login
/// (`user:password` in base64) it answers nobody else. Its port, and the manifest's digest.
pub fn registry(folder: PathBuf, failures: u32, login: Option<&'static str>) -> (u16, String) {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    let run = |args: &[&str]| {
        assert!(Command::new(args[0]).args(&args[1..]).current_dir(&folder).status().unwrap().success())
    };
    run(&["tar", "-C", "root", "-cf", "layer", "."]);
    let uncompressed = sha256(&folder.join("layer"));
    run(&["gzip", "-nf", "layer"]);
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Cmd\":[\"/bin/sh\",\"-c\",\"echo of the image\"]}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{uncompressed}\"]}}}}"
    );
    std::fs::write(folder.join("config"), config).unwrap();
    let part = |kind: &str, file: &str| {
        let (digest, size) =
            (sha256(&folder.join(file)), std::fs::metadata(folder.join(file)).unwrap().len());
        let text = format!(
            "{{\"mediaType\":\"application/vnd.docker.{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}"
        );
        (digest, text)
    };
    let (config, layer) =
        (part("container.image.v1+json", "config"), part("image.rootfs.diff.tar.gzip", "layer.gz"));
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{},\"layers\":[{}]}}",
        config.1, layer.1
    );
    std::fs::write(folder.join("manifest"), &manifest).unwrap();
    let digest = sha256(&folder.join("manifest"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), digest.clone());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut failures = failures;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let (mut request, mut part) = (Vec::new(), [0u8; 4096]);
            while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.first() != Some(&0x16) {
                match stream.read(&mut part) {
                    Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let Some((method, path)) =
                request.split_once(' ').map(|(m, rest)| (m, rest.split(' ').next().unwrap_or("")))
            else {
                continue;
            };
            let known = |login: &str| request.contains(&format!("\r\nAuthorization: Basic {login}\r\n"));
            let mut challenge = "";
            let mut status = "200 OK";
            let (mut kind_of, mut body) = ("application/octet-stream", Vec::new());
            if login.is_some_and(|login| !known(login)) {
                status = "401 Unauthorized";
                challenge = "WWW-Authenticate: Basic realm=\"stub\"\r\n";
            } else if path.contains("/manifests/") && failures > 0 {
                failures -= 1;
                status = "503 Service Unavailable";
            } else if path.contains("/manifests/") {
                (kind_of, body) = (kind, manifest.clone().into_bytes());
            } else if path.ends_with(&config.0) {
                body = std::fs::read(folder.join("config")).unwrap();
            } else if path.ends_with(&layer.0) {
                body = std::fs::read(folder.join("layer.gz")).unwrap();
            } else if path != "/v2/" {
                status = "404 Not Found";
            }
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind_of}\r\nContent-Length: {}\r\nConnection: close\r\n\
                 Docker-Distribution-Api-Version: registry/2.0\r\nDocker-Content-Digest: {digest}\r\n{challenge}\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            if method != "HEAD" {
                let _ = stream.write_all(&body);
            }
        }
    });
    (port, seen)
}

/// A registry on loopback that says one thing of every image. Its port, and how often it was asked for a manifest.
pub fn refusing(status: &'static str, body: &'static str) -> (u16, Arc<AtomicU32>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            // It is asked with TLS first, which has no lines.
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let Some(first) = request.first() else { continue };
            let of_image = first.contains("/manifests/");
            count.fetch_add(u32::from(of_image && first.starts_with("GET")), SeqCst);
            let (status, body) = if of_image { (status, body) } else { ("200 OK", "") };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n",
                body.len()
            );
            let body = if first.starts_with("HEAD") { "" } else { body };
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (port, asked)
}
