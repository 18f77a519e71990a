//! Tells the tests which target they were built for: cargo says so only to build scripts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=OTTLA_TARGET={}", std::env::var("TARGET").unwrap_or_default());
}
