//! Packed weights kept on disk: read by the second start, packed again when anything is not as it was. The real binary.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::gguf_builder::GgufBuilder;
use common::program::{failed, succeeded, taper};
use common::runner::{Pool, in_chunks};
use common::{apart, tiny};
use serde_json::Value;
use taper::backend::KvType;
use taper::backend::Limits;
use taper::backend::cpu::{self, Cpu, Isa, Options};
use taper::config::Dirs;
use taper::format::gguf::Gguf;
use taper::format::quantize::Quant;
use taper::format::repack::{Folder, LEAST, Repack};
use taper::format::weights::Weights;
use taper::format::{DType, random};
use taper::model::config::Config;
use taper::model::tensors::{self, Extras};
use tempfile::TempDir;

/// A cache and a model of its own, large enough to be kept.
struct Place {
    folder: TempDir,
}

/// How a start came to its weights, what it answered, and what it said.
#[derive(Debug, PartialEq)]
enum From {
    Model,
    Cache,
}

struct Start {
    from: From,
    answer: String,
    told: String,
}

impl Place {
    fn new() -> Self {
        Self::with_vocabulary(40_000)
    }

    fn with_vocabulary(vocab: usize) -> Self {
        Self::of(vocab, DType::Q8_0)
    }

    fn of(vocab: usize, matrices: DType) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let config = Config { hidden: 256, ffn: 512, head_dim: 32, heads: 8, kv_heads: 2, vocab, ..tiny::config() };
        let extras = Extras { tied: true, qkv_bias: false, rope_factors: false };
        let gguf = tiny::with_vocabulary(tiny::with_sizes(GgufBuilder::new(), &config), config.vocab);
        let shapes = tensors::shapes(&config, extras).into_iter().enumerate();
        let gguf = shapes.fold(gguf, |gguf, (i, (name, shape))| {
            let dtype = if shape.len() == 2 { matrices } else { DType::F32 };
            let bytes = random::tensor(7, i as u64, dtype, shape.iter().product()).unwrap();
            gguf.tensor_raw(&name, dtype, &shape, &bytes)
        });
        gguf.write(&place.model());
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn model(&self) -> PathBuf {
        self.path("model.gguf")
    }

    fn folder(&self) -> Folder {
        Folder::of(&Dirs::below(self.folder.path())).unwrap()
    }

    /// The names in the folder of packed weights.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder().path()).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    /// The one file that is kept.
    fn kept(&self) -> PathBuf {
        let names = self.names();
        assert!(names.len() == 1 && names[0].ends_with(".packed"), "{names:?}");
        self.folder().path().join(&names[0])
    }

    fn command(&self, model: &Path, tokens: &str) -> Command {
        let mut command = taper();
        command.args(["-v", "--device", "cpu", "--raw", "--temp", "0", "-p", "ABC", "-n", tokens, "-m"]).arg(model);
        command.env("TAPER_CACHE_DIR", self.path("cache"));
        command
    }

    fn start(&self) -> Start {
        self.start_with(&self.model())
    }

    fn start_with(&self, model: &Path) -> Start {
        Start::of(self.command(model, "8").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }
}

impl Start {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        let (packed, read) = (told.contains("info: weights packed"), told.contains("info: packed weights read"));
        assert!(packed != read, "{told}");
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.len() > 8, "{answer}");
        Self { from: if read { From::Cache } else { From::Model }, answer, told }
    }

    fn warned(&self) -> bool {
        self.told.contains("warning: ")
    }
}

/// Writes over a file's bytes from `at` on and sets its time back to what it was.
fn change(path: &Path, at: u64, change: impl FnOnce(&mut [u8; 8])) {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut bytes = [0; 8];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    change(&mut bytes);
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(modified).unwrap();
}

/// The bits of the logits behind a few tokens; weights are kept in `folder`.
fn logits(config: &Config, weights: &Weights, threads: usize, folder: Option<Folder>) -> Vec<u32> {
    let limits = Limits { context: 64, sequences: 1, chunk: 32, pages: 4 };
    let options = Options { threads, isa: Isa::choose(None).unwrap(), kv_type: KvType::F16, flash_attention: true };
    let infos: Vec<_> = weights.names().map(|n| weights.info(n).unwrap()).collect();
    let plan = cpu::plan(config, &infos, limits, &options);
    let repack = Repack { folder, wait: true, ..Repack::default() };
    let mut backend = Cpu::load(config, weights, &plan, &options, &repack).unwrap();
    let logits = in_chunks(&mut backend, &mut Pool::new(limits.pages), &[1, 400, 5000, 30, 2], 5);
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Makes a file of packed weights look old, so that its use shows.
fn age(file: &Path) -> SystemTime {
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    long_ago
}

#[test]
fn quantized_weights_are_kept_apart_for_each_type_with_their_codebooks() {
    let place = Place::of(40_000, DType::F16);
    let gguf = Gguf::open(&place.model()).unwrap();
    let config = Config::from_gguf(&gguf.metadata).unwrap();
    for (i, quant) in [Quant::Iq4Nl, Quant::Nf4, Quant::Learned].into_iter().enumerate() {
        // Made anew each time: what is learned is not handed on in memory.
        let weights = || Weights::from_gguf(&gguf).quantized(quant, tensors::EMBEDDING, None).unwrap();
        let expected = logits(&config, &weights(), 2, None);
        assert!(logits(&config, &weights(), 2, Some(place.folder())) == expected, "{}", quant.name());
        let files = place.folder().files();
        assert_eq!(files.len(), i + 1);
        let kept =
            files.iter().find(|file| file.path.to_string_lossy().ends_with(&format!("-{}.packed", quant.name())));
        let kept = &kept.unwrap().path;
        let long_ago = age(kept);
        for threads in [1, 3] {
            let again = logits(&config, &weights(), threads, Some(place.folder()));
            assert!(again == expected, "{}, {threads} threads", quant.name());
        }
        assert!(kept.metadata().unwrap().modified().unwrap() > long_ago, "{} was read", quant.name());
    }
}

#[test]
fn the_second_start_reads_what_the_first_one_packed_bit_for_bit_on_any_number_of_threads() {
    let cache = tempfile::tempdir().unwrap();
    let folder = Folder::of(&Dirs::below(cache.path())).unwrap();
    let gguf = Gguf::open(&common::smollm2()).unwrap();
    let config = Config::from_gguf(&gguf.metadata).unwrap();
    let weights = Weights::from_gguf(&gguf);
    let logits = |threads, folder| logits(&config, &weights, threads, folder);
    let expected = logits(2, None);
    assert!(folder.files().is_empty());
    assert!(logits(2, Some(folder.clone())) == expected);
    for threads in [1, 2, 3] {
        let long_ago = age(&folder.files()[0].path);
        assert!(logits(threads, Some(folder.clone())) == expected, "{threads} threads");
        assert!(folder.files()[0].used > long_ago, "it was read, and that counts as use");
    }
}

#[test]
fn weights_that_changed_are_packed_again_in_the_place_of_the_old() {
    let place = Place::new();
    let first = place.start();
    assert_eq!((&first.from, first.warned()), (&From::Model, false), "{}", first.told);
    let old = place.kept();
    let second = place.start();
    assert_eq!((&second.from, second.warned()), (&From::Cache, false), "{}", second.told);
    assert_eq!(second.answer, first.answer);

    let model = place.model();
    let again = |why: &str| {
        let start = place.start();
        assert_eq!((&start.from, start.warned()), (&From::Model, false), "{why}: {}", start.told);
        assert_eq!(place.kept(), old, "{why}");
        assert_eq!(place.start().from, From::Cache, "{why}");
        start.answer
    };
    File::options().write(true).open(&model).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(again("another time"), first.answer);
    File::options().append(true).open(&model).unwrap().write_all(&[0; 32]).unwrap();
    assert_eq!(again("another size"), first.answer);
    // The last of the sampled blocks; behind all tensors by the 32 bytes.
    let end = model.metadata().unwrap().len() - 8;
    change(&model, end, |bytes| bytes[0] ^= 1);
    assert_eq!(again("another block, of the same size and time"), first.answer);

    let text = fs::read(&old).unwrap();
    let at = text.windows(10).position(|w| w == b", layout 2").unwrap();
    change(&old, at as u64 + 2, |bytes| assert_eq!(bytes, b"layout 2"));
    change(&old, at as u64 + 3, |bytes| bytes[7] = b'0');
    let _ = again("of an older taper");
}

#[test]
fn a_model_is_known_by_each_of_its_names() {
    let place = Place::new();
    assert_eq!(place.start().from, From::Model);
    std::os::unix::fs::symlink(place.model(), place.path("link.gguf")).unwrap();
    assert_eq!(place.start_with(&place.path("link.gguf")).from, From::Cache);
    let mut beside = place.command("./model.gguf".as_ref(), "8");
    beside.current_dir(place.folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(Start::of(beside.spawn().unwrap()).from, From::Cache);
}

#[test]
fn damaged_files_are_noticed_removed_and_made_again() {
    let place = Place::new();
    let expected = place.start().answer;
    let kept = place.kept();
    let whole = fs::read(&kept).unwrap();
    // The description ends with the parts, one a line, and the padding; the sums follow.
    let sums = whole.windows(7).rposition(|w| w == b"x 256\n\n" || w == b" x 256\n").unwrap() + 16;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let damaged: Vec<(&str, Vec<u8>)> = vec![
        ("no file of ours", b"something else that is long enough".to_vec()),
        ("empty", Vec::new()),
        ("cut in the sums", whole[..sums].to_vec()),
        ("cut in the parts", whole[..whole.len() / 2].to_vec()),
        ("cut by a byte", whole[..whole.len() - 1].to_vec()),
        ("longer", [&whole[..], &[0]].concat()),
        ("a bit of a sum", flipped(sums)),
        ("the first bit of the parts", flipped(8192)),
        ("a bit in the middle", flipped(whole.len() / 2)),
        ("a bit at the end", flipped(whole.len() - 1)),
        ("zeros", [&whole[..whole.len() - 4096], &[0; 4096]].concat()),
    ];
    for (what, bytes) in damaged {
        fs::write(&kept, bytes).unwrap();
        let start = place.start();
        assert_eq!((&start.from, start.answer.as_str()), (&From::Model, expected.as_str()), "{what}: {}", start.told);
        assert!(start.told.contains("are damaged (") && start.told.contains("made again"), "{what}: {}", start.told);
        assert!(fs::read(place.kept()).unwrap() == whole, "{what}");
    }
    assert_eq!(place.start().from, From::Cache);
}

#[test]
fn what_is_no_file_in_the_place_of_one_is_not_waited_for() {
    let place = Place::new();
    let expected = place.start().answer;
    let kept = place.kept();
    fs::remove_file(&kept).unwrap();
    assert!(Command::new("mkfifo").arg(&kept).status().unwrap().success());
    let start = place.start();
    assert_eq!((start.from, start.answer.as_str()), (From::Model, expected.as_str()), "{}", start.told);
    assert!(start.told.contains("it is not a file"), "{}", start.told);
}

#[test]
fn a_process_that_is_killed_in_the_middle_of_writing_leaves_nothing_for_long() {
    let place = Place::new();
    let model = common::smollm2();
    let killed = (0..20).any(|_| {
        let mut child = place.command(&model, "500").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while place.names().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let names = place.names();
        let unfinished = names.iter().any(|name| name.contains(".part"));
        if !unfinished {
            fs::remove_file(place.kept()).unwrap(); // it was faster than we are
        }
        unfinished
    });
    assert!(killed, "never in the middle");
    assert_eq!(place.start_with(&model).from, From::Model);
    place.kept();
    assert_eq!(place.start_with(&model).from, From::Cache);
}

#[test]
fn processes_that_start_together_all_answer_and_leave_one_file() {
    let place = Place::new();
    let children: Vec<Child> = (0..4)
        .map(|_| place.command(&place.model(), "8").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let starts: Vec<Start> = children.into_iter().map(Start::of).collect();
    assert!(starts.iter().all(|start| start.answer == starts[0].answer && !start.warned()));
    place.kept();
    assert_eq!(place.start().from, From::Cache);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_nothing_but_the_next_start() {
    let place = Place::new();
    let expected = place.start().answer;
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::create_dir(place.path("cache")).unwrap();
    let script = r#"mount -t tmpfs -o size=4m tmpfs "$TAPER_CACHE_DIR"
        "$@"
        find "$TAPER_CACHE_DIR" -type f -printf 'left: %p\n'"#;
    let Some(mut script) = apart::with_own_mounts(script) else { return };
    let command = place.command(&place.model(), "8");
    script.arg("sh").arg(command.get_program()).args(command.get_args());
    command.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(script.env(name, value)),
        None => drop(script.env_remove(name)),
    });
    let start = Start::of(script.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!((&start.from, &start.answer), (&From::Model, &expected));
    assert!(start.told.contains("info: packed weights are not kept in") && !start.warned(), "{}", start.told);
}

#[test]
fn without_a_cache_or_with_a_small_model_nothing_is_kept() {
    let place = Place::new();
    let mut command = place.command(&place.model(), "8");
    let nowhere = Start::of(
        command.env("TAPER_CACHE_DIR", "/dev/null/c").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
    );
    assert!(nowhere.told.contains("not kept in /dev/null/c/repacked: ") && !nowhere.warned(), "{}", nowhere.told);
    for name in ["TAPER_CACHE_DIR", "XDG_CACHE_HOME", "HOME"] {
        command.env_remove(name);
    }
    let homeless = Start::of(command.spawn().unwrap());
    assert_eq!(homeless.answer, nowhere.answer);
    assert!(!homeless.told.contains("kept") && !homeless.warned(), "{}", homeless.told);
    assert!(place.names().is_empty());
    let small = Place::with_vocabulary(4_000);
    assert!((small.model().metadata().unwrap().len() as usize) < LEAST);
    assert_eq!((small.start().from, small.start().from), (From::Model, From::Model));
    assert!(small.names().is_empty());
}

#[test]
fn a_synthetic_model_is_kept_under_its_name() {
    let place = Place::new();
    let (first, second) =
        (place.start_with("synth:smollm2-135m".as_ref()), place.start_with("synth:smollm2-135m:q4_0".as_ref()));
    assert_eq!((&first.from, &second.from), (&From::Model, &From::Cache), "{}", second.told);
    assert_eq!(first.answer, second.answer);
}

#[test]
fn what_was_not_used_for_a_month_or_is_too_much_goes_with_the_next_writing() {
    let place = Place::new();
    let folder = place.folder().path().to_owned();
    fs::create_dir_all(&folder).unwrap();
    let days = |n: u64| SystemTime::now() - Duration::from_secs(n * 24 * 60 * 60);
    let file = |name: &str, bytes: u64, used: SystemTime| {
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(bytes).unwrap();
        file.set_modified(used).unwrap();
    };
    file("fresh.1.cpu.packed", 1000, days(29));
    file("stale.2.cpu.packed", 1000, days(31));
    file("notes.txt", 1000, days(99));
    place.start();
    let names = || {
        let mut names = place.names();
        names.retain(|name| !name.starts_with("model."));
        names.sort();
        names
    };
    assert_eq!(names(), ["fresh.1.cpu.packed", "notes.txt"]);
    file("huge.3.cpu.packed", 15_999_000_000, days(2)); // takes no room: nothing was written to it
    fs::remove_file(place.folder().files()[0].path.clone()).unwrap();
    place.start();
    assert_eq!(names(), ["notes.txt"], "16 GB are there without them, and they were used before");
}

#[test]
fn users_see_it_and_remove_it() {
    let place = Place::new();
    let installed = place.path("cache/models/little/w.gguf");
    fs::create_dir_all(installed.parent().unwrap()).unwrap();
    fs::copy(place.model(), &installed).unwrap();
    let size = installed.metadata().unwrap().len();
    fs::create_dir(place.path("config")).unwrap();
    let manifest = format!(
        "default = \"little\"\n[[model]]\nname = \"little\"\ndescription = \"\"\nlicence = \"\"\nkind = \"chat\"\n\
         [[model.source]]\nwheel = \"made-up\"\nversion = \"1.0\"\nbytes = 1000\n\
         files = [{{ name = \"w.gguf\", member = \"w.gguf\", bytes = {size}, sha256 = \"{}\" }}]\n",
        "0".repeat(64)
    );
    fs::write(place.path("config/models.toml"), manifest).unwrap();
    let models = |args: &[&str]| {
        let mut command = taper();
        command.args(args).env("TAPER_CACHE_DIR", place.path("cache")).env("TAPER_CONFIG_DIR", place.path("config"));
        command
    };
    let listed = || -> Value { serde_json::from_str(&succeeded(&mut models(&["models", "list", "--json"]))).unwrap() };
    assert_eq!(listed()[0]["repacked_bytes"], 0);
    place.start();
    place.start_with(&installed);
    let each = place.folder().files()[0].bytes;
    assert_eq!(listed()[0]["repacked_bytes"], each);
    let table = succeeded(&mut models(&["models", "list"]));
    assert!(table.contains(" MB repacked"), "{table}");
    let doctor: Value = serde_json::from_str(&succeeded(&mut models(&["doctor", "--json"]))).unwrap();
    assert_eq!((&doctor["repacked"]["files"], &doctor["repacked"]["bytes"]), (&2.into(), &(2 * each).into()));
    assert!(succeeded(&mut models(&["doctor"])).contains("repacked   2 files ("));

    let removed: Value =
        serde_json::from_str(&succeeded(&mut models(&["models", "rm", "-y", "little", "--json"]))).unwrap();
    assert_eq!(removed["bytes"], size + each);
    assert!(!installed.exists() && place.names() == [place.kept().file_name().unwrap().to_str().unwrap()]);
    let own = place.model();
    let said = succeeded(&mut models(&["models", "rm", own.to_str().unwrap()]));
    assert!(said.contains("removed the packed weights of model, ") && said.contains("is yours and stays"), "{said}");
    assert!(own.exists() && place.names().is_empty());
    let (code, error) = failed(&mut models(&["models", "rm", own.to_str().unwrap()]));
    assert!(code == 2 && error.contains("delete it yourself"), "{error}");
}
