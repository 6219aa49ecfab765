//! What the program says where no NVIDIA GPU can be used. A library stands in for the drivers that are not at hand.
#![cfg(target_os = "linux")]

use std::process::Command;

use serde_json::Value;
use taper::backend::cuda::probe::{Absence, look};

use crate::common;
use crate::common::program::{failed, succeeded, taper};

/// Exports what is asked of a driver before anything is computed.
const DRIVER: &str = r#"
#include <stdlib.h>
#include <string.h>
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return flags ? 1 : number("FAKE_INIT"); }
int cuDriverGetVersion(int *version) { *version = number("FAKE_VERSION"); return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_COUNT"); return 0; }
int cuDeviceGet(int *device, int which) { *device = which; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Old Card", size); return device; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 7 : 5; return device; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1000000; return device; }
"#;

/// Why no GPU is used with such a driver: as `--device cuda`, doctor and `-v` say it.
fn check_driver(variables: &[(&str, &str)], what: &str, advice: &str) {
    check_library(DRIVER, variables, what, advice);
}

fn check_library(text: &str, variables: &[(&str, &str)], what: &str, advice: &str) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("driver.c");
    std::fs::write(&source, text).unwrap();
    let library = folder.path().join("libcuda.so.1");
    let mut compiler = Command::new("cc");
    assert!(compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap().success());
    std::fs::hard_link(&library, folder.path().join("libcuda.so")).unwrap(); // before a real one of that name
    check(what, advice, |command| {
        command.env("LD_LIBRARY_PATH", folder.path()).envs(variables.iter().copied());
    });
}

fn check(what: &str, advice: &str, prepare: impl Fn(&mut Command)) {
    let run = |args: &[&str]| {
        let mut command = taper();
        command.args(args);
        prepare(&mut command);
        command
    };
    let model = common::smollm2();
    let answer = ["-m", model.to_str().unwrap(), "-p", "Hi", "-n", "1", "-c", "64", "--raw"];
    // However it is to keep keys and values.
    let (code, error) = failed(&mut run(&[&answer[..], &["--device", "cuda", "--kv-type", "q8_0"]].concat()));
    assert_eq!(code, 1, "{error}");
    assert!(error.starts_with(&format!("error: --device cuda cannot be had: {what}\n")), "{error}");
    assert!(error.contains(advice) && error.contains("leave --device out to compute on the CPU"), "{error}");
    let text = succeeded(&mut run(&["doctor", "-t", "1"]));
    assert!(text.contains(&format!("\ngpu        none: {what}\n")), "{text}");
    let json: Value = serde_json::from_str(&succeeded(&mut run(&["doctor", "-t", "1", "--json"]))).unwrap();
    assert_eq!(json["gpu"]["unusable"], what);
    assert_eq!(json["gpu"]["name"], Value::Null);
    for (flags, tells) in [(&["-v"][..], true), (&[], false)] {
        let mut command = run(&[&answer[..], &["--device", "auto"], flags].concat());
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{told}");
        assert_eq!(told.contains(&format!("no GPU is used: {what}")), tells, "{told}");
        assert!(tells || !told.to_lowercase().contains("nvidia"), "{told}");
    }
}

#[test]
fn without_a_driver_the_library_that_is_missing_is_named() {
    if look() == Err(Absence::NoDriver) {
        let what = "the NVIDIA driver is not installed: there is no libcuda.so.1";
        check(what, "install NVIDIA's driver 580 or newer", |_| ());
    }
}

#[test]
fn an_old_driver_is_told_from_the_one_that_is_needed() {
    let what = "the NVIDIA driver is too old: it supports CUDA 12.4, and 13.0 is needed";
    check_driver(&[("FAKE_VERSION", "12040")], what, "install NVIDIA's driver 580 or newer");
}

#[test]
fn a_library_of_the_drivers_name_that_is_none_is_told_of() {
    let newest = "int cuDriverGetVersion(int *version) { *version = 13000; return 0; }";
    for (library, missing) in [("int nothing;", "cuDriverGetVersion"), (newest, "cuInit")] {
        let what = format!("the libcuda.so that is found is no NVIDIA driver: it has no {missing}");
        check_library(library, &[], &what, "install NVIDIA's driver 580 or newer");
    }
}

#[test]
fn a_driver_without_a_gpu_says_so() {
    check_driver(&[("FAKE_VERSION", "13000")], "the NVIDIA driver finds no GPU", "see what nvidia-smi says");
    check_driver(
        &[("FAKE_VERSION", "13000"), ("FAKE_INIT", "100")],
        "the NVIDIA driver finds no GPU",
        "see what nvidia-smi says",
    );
    check_driver(
        &[("FAKE_VERSION", "13000"), ("FAKE_INIT", "803")],
        "the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "see what nvidia-smi says",
    );
}

#[test]
fn a_gpu_without_kernels_for_it_is_named() {
    let what = "the Old Card is older than all GPUs that there are kernels for";
    check_driver(&[("FAKE_VERSION", "13010"), ("FAKE_COUNT", "1")], what, "see what nvidia-smi says");
}
