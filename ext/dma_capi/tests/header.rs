//! dma.h says what the library is: a C program that was written from the Rust side's types and numbers compiles, links
//! and runs.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write as _;
use std::fs;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use dma::*;
use dma_core::transfer::Status;

/// How C spells a type.
trait InC {
    const NAME: &'static str;
}

macro_rules! in_c {
    ($($rust:ty => $c:literal),* $(,)?) => { $(impl InC for $rust { const NAME: &'static str = $c; })* };
}

in_c! {
    () => "void", c_int => "int", usize => "size_t", i64 => "int64_t", *mut u64 => "uint64_t *",
    *mut c_void => "void *", *const c_char => "const char *", *const DmaDescriptor => "const DmaDescriptor *",
}

/// How C spells the type of a pointer to a function.
trait Function {
    fn in_c(self) -> String;
}

macro_rules! function {
    ($kind:ty, $parameters:expr, $($generic:ident)*) => {
        impl<R: InC, $($generic: InC),*> Function for $kind {
            fn in_c(self) -> String {
                format!("{} (*)({})", R::NAME, $parameters)
            }
        }
    };
}

function!(extern "C" fn() -> R, "void",);
function!(extern "C" fn(A) -> R, A::NAME, A);
function!(unsafe extern "C" fn(A) -> R, A::NAME, A);
function!(extern "C" fn(A, B) -> R, format!("{}, {}", A::NAME, B::NAME), A B);

/// Every function with its type in C.
fn functions() -> Vec<(&'static str, String)> {
    macro_rules! list {
        ($($name:ident as $kind:ty),* $(,)?) => { vec![$((stringify!($name), ($name as $kind).in_c())),*] };
    }
    list![
        dma_alloc_buffer as extern "C" fn(_) -> _,
        dma_free_buffer as extern "C" fn(_) -> _,
        dma_submit_transfer as unsafe extern "C" fn(_) -> _,
        dma_wait_completion as extern "C" fn(_) -> _,
        dma_wait_completion_timeout as extern "C" fn(_, _) -> _,
        dma_transfer_status as extern "C" fn(_) -> _,
        dma_status_name as extern "C" fn(_) -> _,
        dma_last_error as extern "C" fn() -> _,
        dma_open_device as unsafe extern "C" fn(_) -> _,
        dma_device_size as unsafe extern "C" fn(_) -> _,
    ]
}

/// Every constant with its number, by the names that the library gives them.
fn constants() -> Vec<(String, i64)> {
    let upper = |name: &str| format!("DMA_{}", name.to_uppercase());
    let errors = Code::ALL.iter().map(|(code, name)| (upper(name.to_str().unwrap()), *code as i64));
    let statuses = (0..17).map(|code| (upper(Status::from_code(code).name()), i64::from(code)));
    let rest = [
        ("DMA_TO_DEVICE", TO_DEVICE),
        ("DMA_FROM_DEVICE", FROM_DEVICE),
        ("DMA_WITHIN_DEVICE", TO_DEVICE | FROM_DEVICE),
        ("DMA_STATUS_OS_ERROR", Status::Os(dma_core::Errno::from_raw(0)).code()),
    ];
    let rest = rest.map(|(name, number)| (name.to_owned(), i64::from(number)));
    errors.chain(statuses).chain(rest).collect()
}

/// A C program that asserts all of it when it is compiled.
fn assertions() -> String {
    let mut program = String::from("#include \"dma.h\"\n#include <stdio.h>\n");
    let mut assert = |what: String| writeln!(program, "_Static_assert({what}, \"\");").unwrap();
    assert(format!("sizeof(DmaDescriptor) == {}", size_of::<DmaDescriptor>()));
    assert(format!("_Alignof(DmaDescriptor) == {}", align_of::<DmaDescriptor>()));
    for (field, offset, size) in [
        ("source_addr", offset_of!(DmaDescriptor, source_addr), 8),
        ("dest_addr", offset_of!(DmaDescriptor, dest_addr), 8),
        ("byte_count", offset_of!(DmaDescriptor, byte_count), 4),
        ("flags", offset_of!(DmaDescriptor, flags), 4),
    ] {
        assert(format!("offsetof(DmaDescriptor, {field}) == {offset}"));
        assert(format!("sizeof(((DmaDescriptor *)0)->{field}) == {size}"));
    }
    constants().iter().for_each(|(name, number)| assert(format!("{name} == {number}")));
    functions().iter().for_each(|(name, kind)| assert(format!("_Generic(&{name}, {kind}: 1, default: 0)")));
    program += r#"
int main(void) {
    void *buffer = dma_alloc_buffer(64);
    DmaDescriptor descriptor = { (uint64_t)(uintptr_t)buffer, 0x1000, 64, DMA_TO_DEVICE };
    int id = dma_submit_transfer(&descriptor);
    dma_wait_completion(id);
    puts(dma_status_name(dma_transfer_status(id)));
    dma_free_buffer(buffer);
    return 0;
}
"#;
    program
}

/// Where cargo leaves libdma.so, beside this program.
fn library_directory() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// What a command printed; it must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn types_and_numbers_are_the_same_on_both_sides() {
    assert_eq!(size_of::<DmaDescriptor>(), 24);
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("header.c"), directory.path().join("header"));
    fs::write(&source, assertions()).unwrap();
    let libraries = library_directory();
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"]).arg(&program).arg(&source);
    gcc.arg("-I").arg(include()).arg("-L").arg(&libraries).arg("-ldma");
    output(gcc.arg(format!("-Wl,-rpath,{}", libraries.display())));
    assert_eq!(output(&mut Command::new(program)), "complete\n");
}

#[test]
fn the_header_has_every_symbol_and_every_constant_and_no_other() {
    let header = fs::read_to_string(include().join("dma.h")).unwrap();
    let words = || header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let declared: BTreeSet<_> = header
        .lines()
        .filter_map(|line| line.strip_suffix(");")?.split_once('(')?.0.split([' ', '*']).next_back())
        .map(str::to_owned)
        .collect();
    let listed: BTreeSet<_> = functions().iter().map(|(name, _)| (*name).to_owned()).collect();
    let symbols = output(Command::new("nm").args(["-D", "--defined-only"]).arg(library_directory().join("libdma.so")));
    let exported: BTreeSet<_> = symbols.lines().filter_map(|line| Some(line.split_once(" T ")?.1.to_owned())).collect();
    assert_eq!((&declared, &listed), (&exported, &exported));

    let constants: BTreeSet<_> = constants().into_iter().map(|(name, _)| name).collect();
    let named: BTreeSet<_> =
        words().filter(|word| word.starts_with("DMA_") && *word != "DMA_H").map(str::to_owned).collect();
    assert_eq!(named, constants);
}
