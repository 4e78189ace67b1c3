//! Their side: mke2fs fills an ext4 file system from the tree, veritysetup adds its
//! hash tree, genimage puts both and a ready ESP onto a disk. Nothing is copied to
//! a staging folder, which genimage would do if it were to call mke2fs itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use slipform::pipeline::tools::Tools;

use crate::measure::{Cost, Stopwatch};
use crate::workload::Workload;

/// Bytes of the ESP that is given.
const ESP_BYTES: usize = 30_000_000;

const CONFIG: &str = r#"image disk.img {
  hdimage {
    partition-table-type = "gpt"
    align = 1M
  }
  partition esp {
    partition-type-uuid = "U"
    image = "esp.img"
  }
  partition root {
    partition-type-uuid = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
    image = "root.ext4"
  }
  partition root-verity {
    partition-type-uuid = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
    image = "root.verity"
  }
}
"#;

/// The pipeline as a script.
#[derive(Debug)]
pub(crate) struct Genimage<'a> {
    folder: PathBuf,
    watch: &'a Stopwatch,
}

impl<'a> Genimage<'a> {
    pub(crate) fn prepare(
        folder: &Path,
        workload: &Workload,
        tools: &Tools,
        watch: &'a Stopwatch,
    ) -> Self {
        let folder = folder.join("genimage");
        fs::create_dir_all(folder.join("parts")).unwrap();
        fs::create_dir_all(folder.join("bin")).unwrap();
        for name in ["mke2fs", "veritysetup", "genimage"] {
            wrap(tools, name, &folder.join("bin").join(name));
        }
        fs::write(folder.join("genimage.cfg"), CONFIG).unwrap();
        let esp: Vec<u8> = (0..ESP_BYTES)
            .map(|at| (at / 4096 + at % 251) as u8)
            .collect();
        fs::write(folder.join("parts/esp.img"), esp).unwrap();
        // A guess as its users make it: the files, a tenth more, and 32 MiB.
        let size = (workload.bytes() * 11 / 10 + (32 << 20)) / 1024;
        let script = format!(
            "#!/bin/sh\nset -e\ncd '{folder}'\nexport PATH='{folder}/bin':\"$PATH\" MKE2FS_CONFIG='{config}'\n\
             mke2fs -q -F -t ext4 -m 0 -d '{root}' parts/root.ext4 {size}k\n\
             veritysetup format parts/root.ext4 parts/root.verity >root.txt\n\
             genimage --rootpath empty --tmppath tmp --inputpath parts --outputpath out --config genimage.cfg\n",
            folder = folder.display(),
            root = workload.root().display(),
            config = tools.root().join("etc/mke2fs.conf").display(),
        );
        fs::create_dir_all(folder.join("empty")).unwrap();
        executable(&folder.join("pipeline"), &script);
        Self { folder, watch }
    }

    /// Nothing of an earlier run is left.
    pub(crate) fn forget(&self) {
        for name in ["parts/root.ext4", "parts/root.verity"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        for name in ["out", "tmp"] {
            let _ = fs::remove_dir_all(self.folder.join(name));
        }
    }

    /// The whole pipeline: it has no other way to take in a change.
    pub(crate) fn build(&self) -> Cost {
        self.forget();
        self.watch.run(&self.folder.join("pipeline"), &[], &[])
    }

    /// The disk that was written.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("out/disk.img")
    }
}

/// A program on the path that runs a tool through its own loader.
fn wrap(tools: &Tools, name: &str, path: &Path) {
    let words = tools.words(name).expect("the tools have the pipeline's");
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    executable(
        path,
        &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
    );
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
