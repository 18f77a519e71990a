//! The programs that tests need, each made or installed once: a missing tool is an error that names it, never
//! a skipped test. What is made lies under the target directory, so `cargo clean` removes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::output_of;

/// The root of the source tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The directory of this crate's client programs.
#[must_use]
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Where cargo put the profile that the running test belongs to, for example `target/debug`.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("a test lies in a directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().context("deps has a parent")? } else { dir }.to_owned())
}

/// Holds everybody else, threads and processes, off `name` until dropped.
fn exclusive(name: &str) -> Result<(PathBuf, File)> {
    let dir = profile_dir()?.join("tools").join(name);
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join(".lock"))?;
    lock.lock()?;
    Ok((dir, lock))
}

/// A binary of this workspace, built if need be with the same features as the tests.
///
/// # Errors
/// It does not build.
pub fn binary(name: &str) -> Result<PathBuf> {
    let (_, _lock) = exclusive("binaries")?;
    let dir = profile_dir()?;
    let path = dir.join(name);
    let target = dir.parent().context("a profile directory has a parent")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--tests", "--target-dir"]).arg(target);
    if !dir.ends_with("debug") {
        cargo.args(["--profile", &dir.file_name().unwrap_or_default().to_string_lossy()]);
    }
    // `cargo test` sets variables for the test's own package; dependencies that look at them would be rebuilt.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(key);
        }
    }
    output_of(cargo.current_dir(root()))?;
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// The broker: `OTTLA_BIN` if that is set, else the `ottla` of this workspace.
///
/// # Errors
/// It does not build.
pub fn ottla() -> Result<PathBuf> {
    match std::env::var_os("OTTLA_BIN") {
        Some(path) => Ok(path.into()),
        None => binary("ottla"),
    }
}

/// Python with the packages of `clients/requirements.txt`, in a virtual environment of its own.
///
/// # Errors
/// There is no Python 3 with `venv`, or the packages cannot be installed.
pub fn python() -> Result<PathBuf> {
    let (dir, _lock) = exclusive("python")?;
    let wanted = fs::read_to_string(clients().join("requirements.txt"))?;
    let (stamp, python) = (dir.join("installed"), dir.join("venv/bin/python"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let venv = dir.join("venv");
    output_of(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
        .context("Python 3 with its venv module is needed (Debian: python3-venv)")?;
    let requirements = clients().join("requirements.txt");
    output_of(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements))?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

/// The franz-go program of `clients/kgo-driver`.
///
/// # Errors
/// There is no Go, or the module cannot be fetched or built.
pub fn kgo_driver() -> Result<PathBuf> {
    let (dir, _lock) = exclusive("kgo-driver")?;
    let path = dir.join("kgo-driver");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&path).arg(".").current_dir(clients().join("kgo-driver"));
    output_of(&mut go).context("Go is needed, see README.md")?;
    Ok(path)
}

/// `kcat`, installed with apt-get if it is missing and we may.
///
/// # Errors
/// It is missing and cannot be installed.
pub fn kcat() -> Result<PathBuf> {
    let (_, _lock) = exclusive("kcat")?;
    let there = || Command::new("kcat").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there() {
        let install = || output_of(Command::new("apt-get").args(["install", "-y", "-q", "kcat"]));
        // The package lists of a new machine may be missing or old: once more after fetching them.
        if install().is_err() {
            output_of(Command::new("apt-get").args(["update", "-q"])).context("kcat is needed: install it")?;
            install().context("kcat is needed: install it")?;
        }
    }
    Ok("kcat".into())
}

/// The launcher of genuine Apache Kafka, which also runs Kafka's own tools.
#[must_use]
pub fn kafka() -> PathBuf {
    root().join("tools/kafka/kafka")
}
