//! What level 1 needs besides its kernel: KVM's modules, a shell, and QEMU with all that it opens.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::packages::{Package, said};
use crate::setup::{self, QEMU};

/// Firmware that QEMU's machine q35 opens when it loads an image or boots from a medium. What one version lacks, it does not need.
const FIRMWARE: [&str; 6] = [
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot_dma.bin",
    "pvh.bin",
];

/// The kernel's package, opened: the kernel, and every module by the name that `depends=` has for it.
pub struct Kernel {
    /// The file to boot.
    pub image: Vec<u8>,
    modules: BTreeMap<String, (String, Vec<u8>)>,
}

impl Kernel {
    /// Reads what matters of the package.
    ///
    /// # Errors
    /// The package is damaged, or has no kernel.
    pub fn read(package: &Package) -> Result<Self> {
        let mut image = None;
        let mut modules = BTreeMap::new();
        package.each(|path, contents| {
            let name = path.rsplit('/').next().unwrap_or_default();
            if name.starts_with("vmlinuz-") {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes).context("read the kernel")?;
                image = Some(bytes);
            } else if let Some(module) = module_name(name).filter(|_| is_near_kvm(path)) {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes).context("read a module")?;
                modules.insert(module, (name.to_owned(), bytes));
            }
            Ok(())
        })?;
        Ok(Self {
            image: image.with_context(|| format!("the package {} has no kernel", package.name))?,
            modules,
        })
    }

    /// The module and those that it depends on, in the order in which they can be loaded, uncompressed and without debug
    /// information and signature: an emulated CPU is slow at both.
    ///
    /// # Errors
    /// One is not in the package, or can't be uncompressed.
    pub fn with_dependencies(&self, module: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        self.visit(module, &mut order)?;
        Ok(order)
    }

    fn visit(&self, module: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let name = canonical(module);
        if order.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let (file, bytes) = self
            .modules
            .get(&name)
            .with_context(|| format!("the kernel's package has no module {name}"))?;
        let bytes = if file.ends_with(".xz") {
            filtered("xz", &["-dc"], bytes)?
        } else {
            bytes.clone()
        };
        for dependency in dependencies(&bytes)? {
            self.visit(&dependency, order)?;
        }
        order.push((name, bytes));
        Ok(())
    }
}

/// The name of a module in its file's name; `None` for other files.
fn module_name(file: &str) -> Option<String> {
    let name = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(canonical(name))
}

/// Modules are named with `-` in files and with `_` elsewhere.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Where KVM's modules are, and what they have ever depended on. Reading all modules would take seconds.
fn is_near_kvm(path: &str) -> bool {
    ["/arch/x86/kvm/", "/virt/lib/", "/drivers/crypto/ccp/"]
        .iter()
        .any(|part| path.contains(part))
}

/// What a module says in `depends=`.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("read a module of the kernel's")?;
    let information = file
        .section_by_name(".modinfo")
        .context("a module without .modinfo")?;
    let text = information.data().context("read a module's .modinfo")?;
    let depends = text
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// What a program makes of `input`.
fn filtered(program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut pipe = child.stdin.take().context("a pipe")?;
    let input = input.to_vec();
    // Else both would wait for each other when the pipe is full.
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    let written = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer to {program} failed"))?;
    if !output.status.success() {
        bail!("{program} failed");
    }
    written.with_context(|| format!("write to {program}"))?;
    Ok(output.stdout)
}

/// The module without debug information and signature; as it is where `strip` is missing.
///
/// # Errors
/// `scratch` can't be written to.
pub fn stripped(module: &[u8], scratch: &Path) -> Result<Vec<u8>> {
    fs::write(scratch, module).with_context(|| format!("write {}", scratch.display()))?;
    let strip = Command::new("strip")
        .arg("--strip-debug")
        .arg(scratch)
        .stdin(Stdio::null())
        .status();
    let bytes = if strip.is_ok_and(|status| status.success()) {
        fs::read(scratch).with_context(|| format!("read {}", scratch.display()))?
    } else {
        module.to_vec()
    };
    fs::remove_file(scratch).with_context(|| format!("remove {}", scratch.display()))?;
    Ok(bytes)
}

/// Every file that QEMU needs, by the path that it has here and will have in level 1.
///
/// # Errors
/// QEMU or its loader does not answer as expected.
pub fn qemu_files() -> Result<Vec<PathBuf>> {
    let program = setup::find(QEMU).with_context(|| format!("there is no {QEMU}"))?;
    let mut files = vec![program.clone()];
    files.extend(libraries(&said(Command::new("ldd").arg(&program))?));
    let folders = said(Command::new(&program).args(["-L", "help"]))?;
    for name in FIRMWARE {
        let places = folders
            .lines()
            .map(|folder| plain(&Path::new(folder.trim()).join(name)));
        files.extend(places.filter(|path| path.is_file()).take(1));
    }
    if files.iter().all(|file| !file.ends_with("bios-256k.bin")) {
        bail!(
            "{QEMU} has no bios-256k.bin in its folders ({}): install the package seabios",
            folders.trim().replace('\n', ", ")
        );
    }
    Ok(files)
}

/// The paths in what `ldd` says: `name => path (address)`, or `path (address)` for the loader.
fn libraries(ldd: &str) -> Vec<PathBuf> {
    let lines = ldd
        .lines()
        .map(|line| line.split_once("=>").map_or(line, |(_, path)| path));
    let words = lines.filter_map(|line| line.split_whitespace().next());
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The path without `..`, as text: QEMU names its folders from where its program is.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// What tells this QEMU from another: its version, and the file's size.
///
/// # Errors
/// It is not there, or does not start.
pub fn qemu_version() -> Result<String> {
    let text = said(Command::new(QEMU).arg("--version"))?;
    let line = text.lines().next().unwrap_or_default();
    let path = env::var_os("PATH")
        .and_then(|_| setup::find(QEMU))
        .context("there is no QEMU")?;
    let bytes = fs::metadata(path).context("look at QEMU's file")?.len();
    Ok(format!("{} ({bytes} bytes)", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibgone.so => not found\n";
        let found = libraries(text);
        let wanted = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, wanted.map(PathBuf::from));
    }

    #[test]
    fn modules_have_one_name() {
        assert_eq!(module_name("kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(module_name("kvm-amd.ko.xz").as_deref(), Some("kvm_amd"));
        assert_eq!(module_name("modules.dep"), None);
        assert_eq!(
            plain(Path::new("/usr/bin/../share/qemu/pvh.bin")),
            Path::new("/usr/share/qemu/pvh.bin")
        );
    }
}
