//! The messages of `proto/*.proto` and their descriptors, as `build.rs` made them.

/// A file of messages and services, for reflection.
pub struct File {
    pub name: &'static str,
    pub services: &'static [&'static str],
    pub symbols: &'static [&'static str],
    pub descriptor: &'static [u8],
}

pub static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

pub mod signals {
    include!(concat!(env!("OUT_DIR"), "/blockremote.v1.rs"));
}

pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

#[expect(clippy::enum_variant_names, reason = "the names are the standard's")]
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}
