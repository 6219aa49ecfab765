//! Where taper keeps its files, and the settings that come from the environment alone.
//!
//! Everything here is a pure function of a look-up from variable name to value, so that tests need not change the
//! environment of the process they share. [`process_env`] is the look-up that the program uses. (Flags that also
//! have an environment name are clap's; see `cli`. What the user wrote down for good is in [`settings`].)

pub mod settings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folders taper writes to, none of them created yet. One that no variable names is an error only for who asks for it:
/// a model that is given by its path needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    cache: Option<PathBuf>,
    data: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Dirs {
    /// The folders that the environment asks for: `TAPER_…_DIR`, else `XDG_…_HOME/taper`, else the XDG default below
    /// the home folder. A relative `XDG_…_HOME` is ignored, as the XDG base directory specification says.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |own: &str, xdg: &str, below_home: &str| {
            value(&env, own).map(PathBuf::from).or_else(|| {
                let base = absolute(&env, xdg).or_else(|| Some(absolute(&env, "HOME")?.join(below_home)));
                Some(base?.join("taper"))
            })
        };
        Self {
            cache: folder("TAPER_CACHE_DIR", "XDG_CACHE_HOME", ".cache"),
            data: folder("TAPER_DATA_DIR", "XDG_DATA_HOME", ".local/share"),
            config: folder("TAPER_CONFIG_DIR", "XDG_CONFIG_HOME", ".config"),
        }
    }

    /// Folders of the caller's choice: `cache`, `data` and `config` in this one.
    pub fn below(folder: &Path) -> Self {
        let inside = |name: &str| Some(folder.join(name));
        Self { cache: inside("cache"), data: inside("data"), config: inside("config") }
    }

    /// What can be fetched or computed again: models from wheels, repacked weights, measurements.
    ///
    /// # Errors
    /// When no variable says where it is; so are those of the other two.
    pub fn cache(&self) -> Result<&Path> {
        known(self.cache.as_deref(), "cache", "TAPER_CACHE_DIR")
    }

    /// What cannot: sessions, memories.
    ///
    /// # Errors
    /// As [`Dirs::cache`].
    pub fn data(&self) -> Result<&Path> {
        known(self.data.as_deref(), "data", "TAPER_DATA_DIR")
    }

    /// What the user writes: settings, models of their own.
    ///
    /// # Errors
    /// As [`Dirs::cache`].
    pub fn config(&self) -> Result<&Path> {
        known(self.config.as_deref(), "configuration", "TAPER_CONFIG_DIR")
    }
}

fn known<'a>(folder: Option<&'a Path>, purpose: &str, variable: &str) -> Result<&'a Path> {
    folder.ok_or_else(|| {
        Error::runtime(format!("cannot tell where the {purpose} folder is: HOME is not set"))
            .help(format!("set HOME, or name the folder itself in {variable}"))
    })
}

/// Writes a small file of the cache beside its place and renames it: another taper reads the old one or the new one.
///
/// # Errors
/// When it cannot be written; nothing of it is left then.
pub fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part); // whatever was written of it
    }
    written
}

/// The environment of this process, as the functions here take it.
pub fn process_env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Whether the environment forbids the network: `TAPER_OFFLINE` or Hugging Face's `HF_HUB_OFFLINE` is 1, true, yes
/// or on. `--offline` is the flag for it.
pub fn offline(env: impl Fn(&str) -> Option<OsString>) -> bool {
    ["TAPER_OFFLINE", "HF_HUB_OFFLINE"].into_iter().any(|name| {
        value(&env, name).is_some_and(|v| ["1", "true", "yes", "on"].into_iter().any(|yes| v.eq_ignore_ascii_case(yes)))
    })
}

/// The Python whose pip fetches wheels: `TAPER_PYTHON`, else `python3`.
pub fn python(env: impl Fn(&str) -> Option<OsString>) -> OsString {
    value(&env, "TAPER_PYTHON").unwrap_or_else(|| "python3".into())
}

/// A variable's value; one set to nothing counts as not set.
fn value(env: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    env(name).filter(|v| !v.is_empty())
}

fn absolute(env: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    value(env, name).map(PathBuf::from).filter(|path: &PathBuf| Path::is_absolute(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(vars: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
    }

    #[test]
    fn folders_lie_below_home_by_default() {
        let dirs = Dirs::from_env(env(&[("HOME", "/home/ada")]));
        assert_eq!(dirs.cache().unwrap(), "/home/ada/.cache/taper");
        assert_eq!(dirs.data().unwrap(), "/home/ada/.local/share/taper");
        assert_eq!(dirs.config().unwrap(), "/home/ada/.config/taper");
    }

    #[test]
    fn xdg_overrides_home_and_tapers_own_variable_overrides_both() {
        let dirs = Dirs::from_env(env(&[
            ("HOME", "/home/ada"),
            ("XDG_CACHE_HOME", "/fast"),
            ("XDG_DATA_HOME", "/big"),
            ("TAPER_DATA_DIR", "/mine"),
        ]));
        assert_eq!(dirs.cache().unwrap(), "/fast/taper");
        assert_eq!(dirs.data().unwrap(), "/mine");
        assert_eq!(dirs.config().unwrap(), "/home/ada/.config/taper");
    }

    #[test]
    fn relative_and_empty_variables_are_ignored() {
        let dirs = Dirs::from_env(env(&[("HOME", "/h"), ("XDG_CACHE_HOME", "cache"), ("TAPER_DATA_DIR", "")]));
        assert_eq!(dirs.cache().unwrap(), "/h/.cache/taper");
        assert_eq!(dirs.data().unwrap(), "/h/.local/share/taper");
    }

    #[test]
    fn without_a_home_only_the_folder_that_is_asked_for_is_missed_and_its_variable_named() {
        let dirs = Dirs::from_env(env(&[("TAPER_CACHE_DIR", "/c"), ("TAPER_DATA_DIR", "/d")]));
        assert_eq!((dirs.cache().unwrap(), dirs.data().unwrap()), (Path::new("/c"), Path::new("/d")));
        assert_eq!(
            dirs.config().unwrap_err().to_string(),
            "cannot tell where the configuration folder is: HOME is not set\n  \
             set HOME, or name the folder itself in TAPER_CONFIG_DIR"
        );
    }

    #[test]
    fn offline_understands_the_words_of_hugging_face() {
        for (name, word, expected) in [
            ("TAPER_OFFLINE", "1", true),
            ("HF_HUB_OFFLINE", "1", true),
            ("HF_HUB_OFFLINE", "ON", true),
            ("HF_HUB_OFFLINE", "True", true),
            ("TAPER_OFFLINE", "0", false),
            ("TAPER_OFFLINE", "", false),
            ("OFFLINE", "1", false),
        ] {
            assert_eq!(offline(env(&[(name, word)])), expected, "{name}={word}");
        }
    }

    #[test]
    fn the_interpreter_can_be_chosen() {
        assert_eq!(python(env(&[])), "python3");
        assert_eq!(python(env(&[("TAPER_PYTHON", "/opt/py")])), "/opt/py");
    }

    #[test]
    fn a_file_is_kept_whole_and_what_cannot_be_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/figures.json");
        for bytes in [b"first".as_slice(), b"then"] {
            keep(&path, bytes).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        // A folder is in the way.
        let taken = folder.path().join("taken");
        std::fs::create_dir_all(taken.join("full")).unwrap();
        keep(&taken, b"x").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the two folders");
    }
}
