//! The code that this process has mapped, and how its stacks are unwound: by the tables that compilers write for
//! exceptions (`.eh_frame`), so that no frame pointers are needed.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use darter_engine::sampler::Sample;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};
use object::{Object, ObjectSection, ReadCache, ReadRef};

use super::pprof::Mapping;

/// Of one stack; deeper ones are cut off at their outer end.
const FRAMES_MAX: usize = 128;
/// Of a file's tables. Those of a debug build of this daemon have a quarter of that.
const SECTION_BYTES_MAX: u64 = 256 << 20;
/// Of the code that the kernel maps into each process.
const VDSO_BYTES_MAX: usize = 64 << 10;
const VDSO: &str = "[vdso]";

type Sections = ExplicitModuleSectionInfo<Vec<u8>>;

/// What is mapped, as it was when this was made.
pub(super) struct Modules {
    pub(super) mappings: Vec<Mapping>,
    unwinder: UnwinderX86_64<Vec<u8>>,
    cache: CacheX86_64,
}

/// One file of `/proc/self/maps`, with all its mappings.
#[derive(Debug, PartialEq, Eq)]
struct Mapped {
    file: String,
    /// Where the beginning of the file is, or would be.
    base: u64,
    all: Range<u64>,
    /// The code, and where it is in the file.
    code: Option<(Range<u64>, u64)>,
}

impl Modules {
    /// Reads the tables of all that is mapped now. What cannot be read is left out: stacks end there.
    ///
    /// # Errors
    /// The system does not say what is mapped.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut modules =
            Self { mappings: Vec::new(), unwinder: UnwinderX86_64::new(), cache: CacheX86_64::new() };
        for mapped in parsed(&std::fs::read_to_string("/proc/self/maps")?) {
            let Some((code, offset)) = mapped.code.clone() else { continue };
            let build_id = match modules.add(&mapped) {
                Ok(build_id) => build_id,
                Err(error) => {
                    tracing::debug!(file = mapped.file, %error, "this code cannot be looked into for a profile");
                    String::new()
                }
            };
            let (start, end) = (code.start, code.end);
            modules.mappings.push(Mapping { start, end, offset, file: mapped.file, build_id });
        }
        Ok(modules)
    }

    /// Returns the file's build id.
    fn add(&mut self, mapped: &Mapped) -> Result<String, Box<dyn Error>> {
        let (sections, build_id) = if mapped.file == VDSO {
            let bytes = usize::try_from(mapped.all.end - mapped.all.start)?.min(VDSO_BYTES_MAX);
            let mut image = vec![0; bytes];
            File::open("/proc/self/mem")?.read_exact_at(&mut image, mapped.all.start)?;
            sections(&*image)?
        } else {
            // A binary that was replaced while it runs has no name any more.
            let file = match mapped.file.ends_with(" (deleted)") {
                true => File::open("/proc/self/exe")?,
                false => File::open(&mapped.file)?,
            };
            let cache = ReadCache::new(file);
            sections(&cache)?
        };
        self.unwinder.add_module(Module::new(mapped.file.clone(), mapped.all.clone(), mapped.base, sections));
        Ok(build_id)
    }

    /// The addresses of a stack, innermost first: of its instruction, and within the call of each caller.
    pub(super) fn unwind(&mut self, sample: &Sample<'_>) -> Vec<u64> {
        let registers = UnwindRegsX86_64::new(sample.instruction, sample.stack_pointer, sample.frame_pointer);
        let mut read = |address: u64| word(sample, address).ok_or(());
        let mut frames = self.unwinder.iter_frames(sample.instruction, registers, &mut self.cache, &mut read);
        let mut addresses = Vec::new();
        while addresses.len() < FRAMES_MAX
            && let Ok(Some(frame)) = frames.next()
        {
            addresses.push(FrameAddress::address_for_lookup(frame));
        }
        addresses
    }

    /// Which mapping an address lies in.
    pub(super) fn mapping(&self, address: u64) -> Option<usize> {
        self.mappings.iter().position(|mapping| (mapping.start..mapping.end).contains(&address))
    }
}

/// Eight bytes of the stack that was sampled; nothing else is read.
fn word(sample: &Sample<'_>, address: u64) -> Option<u64> {
    let at = usize::try_from(address.checked_sub(sample.stack_pointer)?).ok()?;
    let bytes = sample.stack.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// What unwinding needs of a file, and its build id.
fn sections<'a>(file: impl ReadRef<'a>) -> Result<(Sections, String), Box<dyn Error>> {
    let file = object::File::parse(file)?;
    let range = |name: &str| {
        file.section_by_name(name).map(|section| section.address()..section.address() + section.size())
    };
    let data = |name: &str| {
        let section = file.section_by_name(name).filter(|section| section.size() <= SECTION_BYTES_MAX)?;
        section.data().ok().map(<[u8]>::to_vec)
    };
    let build_id = file.build_id().ok().flatten().unwrap_or_default();
    let build_id = build_id.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    let info = Sections {
        base_svma: 0,
        // The code itself, which would tell where within a function's beginning a thread is, is large and not needed: the tables
        // of compilers for Linux are right at each instruction.
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..Sections::default()
    };
    Ok((info, build_id))
}

/// The files with code, from the text of `/proc/self/maps`.
fn parsed(maps: &str) -> Vec<Mapped> {
    let mut all: Vec<Mapped> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (range, flags, offset, file) in maps.lines().filter_map(fields) {
        if !file.starts_with('/') && file != VDSO {
            continue;
        }
        let number = *known.entry(file).or_insert_with(|| {
            let base = range.start.saturating_sub(offset);
            all.push(Mapped { file: file.to_owned(), base, all: range.clone(), code: None });
            all.len() - 1
        });
        let mapped = &mut all[number];
        mapped.all = mapped.all.start.min(range.start)..mapped.all.end.max(range.end);
        if flags.contains('x') && mapped.code.is_none() {
            mapped.code = Some((range, offset));
        }
    }
    all.retain(|mapped| mapped.code.is_some());
    all
}

/// proc_pid_maps(5): range, permissions, offset, device, inode, and what is mapped.
fn fields(line: &str) -> Option<(Range<u64>, &str, u64, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (flags, rest) = rest.split_once(' ')?;
    let (offset, rest) = rest.split_once(' ')?;
    let (_device, rest) = rest.split_once(' ')?;
    let (_inode, file) = rest.split_once(' ')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    Some((number(start)?..number(end)?, flags, number(offset)?, file.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_code_are_found() {
        let maps = "\
55d0c0000000-55d0c0010000 r--p 00000000 fe:00 12   /usr/local/bin/darter
55d0c0010000-55d0c0090000 r-xp 00010000 fe:00 12   /usr/local/bin/darter
55d0c0090000-55d0c00a0000 rw-p 00090000 fe:00 12   /usr/local/bin/darter
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0    [heap]
7f0000000000-7f0040000000 rw-s 00000000 fe:00 99   /var/lib/darter/store/slab-0
7f1000000000-7f1000001000 rw-p 00000000 00:00 0 
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0    [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";
        let expected = [
            Mapped {
                file: "/usr/local/bin/darter".into(),
                base: 0x55d0_c000_0000,
                all: 0x55d0_c000_0000..0x55d0_c00a_0000,
                code: Some((0x55d0_c001_0000..0x55d0_c009_0000, 0x1_0000)),
            },
            Mapped {
                file: VDSO.into(),
                base: 0x7ffc_0000_0000,
                all: 0x7ffc_0000_0000..0x7ffc_0000_2000,
                code: Some((0x7ffc_0000_0000..0x7ffc_0000_2000, 0)),
            },
        ];
        assert_eq!(parsed(maps), expected);
        assert_eq!(parsed("no line of it\n55-66 r"), []);
    }

    #[test]
    fn no_word_is_read_beside_the_sample() {
        let stack: Vec<u8> = (0..24).collect();
        let sample =
            Sample { thread: 1, instruction: 0, stack_pointer: 0x1000, frame_pointer: 0, stack: &stack };
        assert_eq!(word(&sample, 0x1008), Some(0x0f0e_0d0c_0b0a_0908));
        assert_eq!(word(&sample, 0x1010), Some(0x1716_1514_1312_1110));
        for outside in [0, 0xfff, 0x1011, 0x1018, u64::MAX] {
            assert_eq!(word(&sample, outside), None, "{outside:x}");
        }
    }
}
