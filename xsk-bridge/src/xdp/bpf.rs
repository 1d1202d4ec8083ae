//! The commands of bpf(2) that one program and one map need (linux/bpf.h, union bpf_attr).
// The system call takes pointers to attributes.
#![allow(unsafe_code)]
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// XDP_FLAGS_* (linux/if_link.h): where a program runs.
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Flag of a program (linux/bpf.h, BPF_F_XDP_HAS_FRAGS): packets may lie in several buffers.
pub(super) const XDP_HAS_FRAGS: u32 = 1 << 5;

/// struct bpf_insn: code u8, registers u8 (destination in the low half), offset i16, immediate i32.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Instruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}
const _: () = assert!(size_of::<Instruction>() == 8);

/// `size_of::<A>()` bytes of attributes for one command; what they point to lives on in the caller.
fn bpf<A>(command: i32, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: `attributes` is a prefix of union bpf_attr of the size we say; the pointers in it are the callers'.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            size_of::<A>() as u32,
        )
    };
    match result {
        0.. => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bpf_fd<A>(command: i32, attributes: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the command made this descriptor (close-on-exec) for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

/// A map from queue number to AF_XDP socket.
pub(super) fn create_xskmap(entries: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        map_name: [u8; 16],
    }
    bpf_fd(
        MAP_CREATE,
        &mut Attributes {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: entries,
            map_flags: 0,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: name("netback_xsks"),
        },
    )
}

/// Stores `value` (a descriptor) at `key`, replacing one that is there.
pub(super) fn update(map: BorrowedFd<'_>, key: u32, value: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = value.as_raw_fd() as u32;
    bpf(
        MAP_UPDATE_ELEM,
        &mut Attributes {
            map_fd: map.as_raw_fd() as u32,
            pad: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        },
    )?;
    Ok(())
}

/// Loads an XDP program with these flags.
pub(super) fn load(instructions: &[Instruction], flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    bpf_fd(
        PROG_LOAD,
        &mut Attributes {
            prog_type: PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: flags,
            prog_name: name("netback_xdp"),
            prog_ifindex: 0,
            expected_attach_type: ATTACH_TYPE_XDP,
        },
    )
}

/// Attaches `program` to a device. The kernel detaches it when the last reference to the link (descriptor or pin) is gone.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    bpf_fd(
        LINK_CREATE,
        &mut Attributes {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: ATTACH_TYPE_XDP,
            flags,
        },
    )
}

/// Replaces a link's program with `program`, atomically.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    bpf(
        LINK_UPDATE,
        &mut Attributes {
            link_fd: link.as_raw_fd() as u32,
            new_prog_fd: program.as_raw_fd() as u32,
            flags: 0,
            old_prog_fd: 0,
        },
    )?;
    Ok(())
}

/// Detaches a link's program from its device, even if others hold the link.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut (link.as_raw_fd() as u32))?;
    Ok(())
}

/// The program and the device of a link.
pub(super) struct LinkInfo {
    /// The program's number.
    pub program_id: u32,
    /// The device's index; 0 if the device is gone or the link is detached.
    pub ifindex: u32,
}

/// Asks the kernel for the program and the device of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// struct bpf_link_info: the union after prog_id is 8-byte aligned.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program_id: u32,
        pad: u32,
        ifindex: u32,
        rest: [u32; 3],
    }
    let mut info = Info::default();
    object_info(link, &mut info)?;
    Ok(LinkInfo {
        program_id: info.program_id,
        ifindex: info.ifindex,
    })
}

/// Fills `info`, the first members of struct bpf_*_info of an object.
fn object_info<I>(object: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    bpf(
        OBJ_GET_INFO_BY_FD,
        &mut Attributes {
            bpf_fd: object.as_raw_fd() as u32,
            info_len: size_of::<I>() as u32,
            info: &raw mut *info as u64,
        },
    )?;
    Ok(())
}

#[repr(C)]
struct ObjectAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins an object in bpffs, so that it outlives the process.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        OBJ_PIN,
        &mut ObjectAttributes {
            pathname: path.as_ptr() as u64,
            bpf_fd: object.as_raw_fd() as u32,
            file_flags: 0,
        },
    )?;
    Ok(())
}

/// Opens a pinned object.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf_fd(
        OBJ_GET,
        &mut ObjectAttributes {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        },
    )
}

/// Makes sure that `dir` exists in a BPF file system. Creates missing directories, and mounts a bpffs if there is none: on
/// /sys/fs/bpf if `dir` is below that, else on `dir` itself.
pub(super) fn prepare_dir(dir: &Path) -> io::Result<()> {
    let system = Path::new("/sys/fs/bpf");
    if dir.starts_with(system) && !is_bpffs(system)? {
        mount_bpffs(system)?;
    }
    std::fs::create_dir_all(dir)?;
    if !is_bpffs(dir)? {
        mount_bpffs(dir)?;
    }
    Ok(())
}

fn is_bpffs(dir: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(dir)?.f_type == libc::BPF_FS_MAGIC)
}

fn mount_bpffs(dir: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount(
        "bpf",
        dir,
        "bpf",
        flags,
        c"mode=0700",
    )?)
}
