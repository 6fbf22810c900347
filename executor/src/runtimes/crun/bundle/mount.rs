//! One mount of a bundle.

use std::path::PathBuf;

use oci_spec::runtime::Mount;

/// A file system of its own: its kind is the source, too.
pub fn fresh(destination: &str, kind: &str, options: &[&str]) -> Mount {
    make(destination, kind, kind, options)
}

/// A file or folder of this host.
pub fn bind(destination: impl Into<PathBuf>, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    make(destination, "bind", source, options)
}

fn make(destination: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}
