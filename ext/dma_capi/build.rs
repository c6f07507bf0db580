//! Gives libdma.so its name: without one, a program linked to it by path would look for it at that path only.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdma.so");
}
