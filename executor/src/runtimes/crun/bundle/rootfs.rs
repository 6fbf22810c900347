//! The root file system of a container: the host's system folders, one executable file, or a folder that others use too.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::mount;
use crate::shim_api::inside::{BINARY, HOST_FOLDERS, INIT, WORK};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Root, StartRequest};
use crate::sys::spawn::Overlay;

/// Empty folders of a root that is made here.
const MOUNT_POINTS: [&str; 7] = ["dev", "proc", "sys", "tmp", "run", "var", "work"];

/// Where a container's root is.
pub struct RootFs {
    pub path: PathBuf,
    pub mounts: Vec<Mount>,
    pub overlay: Option<Overlay>,
    pub working_dir: String,
}

/// Prepares the root that a request asks for.
pub fn make(layout: &Layout, request: &StartRequest, bundle: &Path) -> io::Result<RootFs> {
    let root = bare(layout, request, bundle)?;
    // Attempts share it, and crun makes the places of mounts in it.
    if root.overlay.is_some() || request.mounts.is_empty() {
        return Ok(root);
    }
    let overlay = overlay(&root.path, bundle)?;
    Ok(RootFs { path: bundle.join("layer/root"), overlay: Some(overlay), ..root })
}

fn bare(layout: &Layout, request: &StartRequest, bundle: &Path) -> io::Result<RootFs> {
    let working_dir = WORK.to_owned();
    let (path, mounts) = match request.root.as_deref() {
        None => host_root(layout)?,
        Some(Root::Executable(file)) => return executable(layout, Path::new(file)),
        Some(Root::Folder(folder, wanted)) => {
            let overlay = overlay(Path::new(folder), bundle)?;
            let path = bundle.join("layer/root");
            let working_dir = wanted.clone().unwrap_or(working_dir);
            return Ok(RootFs { path, mounts: Vec::new(), overlay: Some(overlay), working_dir });
        }
    };
    Ok(RootFs { path, mounts, overlay: None, working_dir })
}

/// A root with the file alone when it needs no other to run; else with the host's system folders beside it.
fn executable(layout: &Layout, file: &Path) -> io::Result<RootFs> {
    let of_host = !is_static(file)?;
    let (path, mut mounts) =
        if of_host { host_root(layout)? } else { (layout.root().join("bare-root"), Vec::new()) };
    make_points(&path)?;
    make_file(&path.join(BINARY.trim_start_matches('/')))?;
    mounts.push(mount::bind(BINARY, file, &["bind", "ro", "nosuid", "nodev"]));
    Ok(RootFs { path, mounts, overlay: None, working_dir: WORK.to_owned() })
}

fn make_points(root: &Path) -> io::Result<()> {
    // The program walks through them as another user.
    let open = |folder: &Path| std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755));
    for name in MOUNT_POINTS {
        std::fs::create_dir_all(root.join(name))?;
        open(&root.join(name))?;
    }
    make_file(&root.join(INIT.trim_start_matches('/')))?;
    open(root)
}

/// The place of a file that is mounted.
fn make_file(place: &Path) -> io::Result<()> {
    if place.exists() { Ok(()) } else { std::fs::write(place, "") }
}

/// An almost empty root into which the host's system folders are mounted read-only.
fn host_root(layout: &Layout) -> io::Result<(PathBuf, Vec<Mount>)> {
    let root = layout.root().join("host-root");
    make_points(&root)?;
    let mut mounts = Vec::new();
    for name in HOST_FOLDERS {
        let (host, inside) = (Path::new("/").join(name), root.join(name));
        if let Ok(target) = std::fs::read_link(&host) {
            match std::os::unix::fs::symlink(target, &inside) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        } else if host.is_dir() {
            std::fs::create_dir_all(&inside)?;
            mounts.push(mount::bind(format!("/{name}"), host, &["rbind", "ro", "nosuid", "nodev"]));
        }
    }
    Ok((root, mounts))
}

fn overlay(folder: &Path, bundle: &Path) -> io::Result<Overlay> {
    let scratch = bundle.join("layer");
    std::fs::create_dir_all(&scratch)?;
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let path = |path: &Path| c_string(path.as_os_str().as_bytes());
    let mut options = b"lowerdir=".to_vec();
    // Colons part several layers, and a backslash makes one plain.
    for byte in folder.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    options.extend(
        [b",upperdir=", upper.as_os_str().as_bytes(), b",workdir=", work.as_os_str().as_bytes()].concat(),
    );
    let folders = [path(&upper)?, path(&work)?, path(&scratch.join("root"))?];
    Ok(Overlay { scratch: path(&scratch)?, folders, options: c_string(&options)? })
}

/// Whether a file is a program for this kernel that asks for no loader: an ELF file without an interpreter.
fn is_static(file: &Path) -> io::Result<bool> {
    /// The program headers of ordinary files lie within.
    const HEAD_BYTES: u64 = 4096;
    let mut head = Vec::new();
    std::fs::File::open(file)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(is_static_elf(&head).unwrap_or(false))
}

/// None: no ELF file of 64 bits in this machine's order of bytes, or its program headers lie too far behind.
pub fn is_static_elf(head: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let own_order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if head.get(..6)? != [0x7f, b'E', b'L', b'F', 2, own_order] {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?)));
    let first = usize::try_from(u64::from_ne_bytes(head.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    let mut kinds = (0..count).map(|index| {
        let at = first.checked_add(index.checked_mul(size)?)?;
        Some(u32::from_ne_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?))
    });
    kinds.try_fold(true, |bare, kind| Some(bare && kind? != INTERPRETER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_need_a_loader_are_told() {
        let head = |path: &str| {
            std::fs::read(path).unwrap()[..4096.min(std::fs::metadata(path).unwrap().len() as usize)].to_vec()
        };
        assert_eq!(is_static_elf(&head("/proc/self/exe")), Some(false), "tests are linked dynamically");
        assert_eq!(is_static_elf(b"#!/bin/sh\n"), None);
        // A header that says its program headers are where the file is not.
        let mut cut = head("/proc/self/exe");
        cut.truncate(64);
        assert_eq!(is_static_elf(&cut), None);
        cut[56..58].copy_from_slice(&[0, 0]);
        assert_eq!(is_static_elf(&cut), Some(true));
    }

    #[test]
    fn the_options_of_a_layer_hold_any_path() {
        let bundle = tempfile::tempdir().unwrap();
        let overlay = overlay(Path::new("/a:b,c\\d"), bundle.path()).unwrap();
        let options = overlay.options.into_string().unwrap();
        assert!(options.starts_with("lowerdir=/a\\:b\\,c\\\\d,upperdir="), "{options}");
    }
}
