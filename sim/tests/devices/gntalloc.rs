//! What an agent does with `/dev/xen/gntalloc`: by the real code of `xen`, and call by call as the driver has it.
// The driver's calls, raw.
#![allow(unsafe_code)]
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use xen::grant::{DomId, GrantedMemory, PAGE_SIZE};
use xen::linux::{Gntalloc, GrantedPages};

const PATH: &CStr = c"/dev/xen/gntalloc";

/// What the agent has of it.
#[derive(Default)]
pub struct Granted {
    device: Option<Gntalloc>,
    /// By their first grant.
    pages: HashMap<u32, GrantedPages>,
}

fn call(result: libc::c_int) -> io::Result<String> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result.to_string())
}

fn join<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    all.join(" ")
}

impl Granted {
    pub fn perform(&mut self, command: &str, words: &[&str]) -> io::Result<String> {
        let n = |i: usize| words[i].parse::<u64>().unwrap();
        match command {
            "grant" => Ok(self.grant(DomId(n(0) as u16), n(1) as usize)),
            "put" => {
                let pages = self.pages.get_mut(&(n(0) as u32)).unwrap();
                pages.bytes_mut()[n(1) as usize..][..n(3) as usize].fill(n(2) as u8);
                Ok("ok".into())
            }
            "get" => {
                let pages = &self.pages[&(n(0) as u32)];
                Ok(join(&pages.bytes()[n(1) as usize..][..n(2) as usize]))
            }
            "ungrant" => {
                self.pages.remove(&(n(0) as u32)).unwrap();
                Ok("ok".into())
            }
            // SAFETY: a C string.
            "open" => call(unsafe { libc::open(PATH.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }),
            "alloc" => alloc(n(0) as i32, n(1) as u16, n(2) as u32),
            "dealloc" => {
                let mut argument = (n(1), n(2));
                // SAFETY: IOCTL_GNTALLOC_DEALLOC_GREF takes an index and a count.
                call(unsafe { libc::ioctl(n(0) as i32, 0x10_4706, &raw mut argument) })
            }
            "strange" => {
                let mut argument = [0u64; 8];
                // SAFETY: no such request is known, and none is longer.
                call(unsafe { libc::ioctl(n(0) as i32, 0x10_4709, &raw mut argument) })
            }
            "mmap" => map(n(0) as i32, n(1), n(2) as usize, words[3]),
            "munmap" => {
                // SAFETY: what `map` answered, into which nothing points.
                call(unsafe { libc::munmap(n(0) as *mut _, n(1) as usize * PAGE_SIZE) })
            }
            // SAFETY: what `open` answered.
            "close" => call(unsafe { libc::close(n(0) as i32) }),
            _ => panic!("{command}"),
        }
    }

    /// The grants, or the error's line.
    fn grant(&mut self, domid: DomId, pages: usize) -> String {
        let device = self.device.get_or_insert_with(|| Gntalloc::open().unwrap());
        match device.grant(domid, pages) {
            Ok(pages) => {
                assert_eq!(pages.domid(), domid);
                let grefs = join(pages.grefs().iter().map(|gref| gref.0));
                self.pages.insert(pages.grefs()[0].0, pages);
                grefs
            }
            Err(e) => e.to_string(),
        }
    }
}

/// The index and the grants.
fn alloc(fd: i32, domid: u16, count: u32) -> io::Result<String> {
    let mut argument = [0u32; 4 + 16];
    argument[0] = u32::from(domid) | 1 << 16;
    argument[1] = count;
    assert!(count <= 16 || count > 1024, "no room for the answer");
    // SAFETY: IOCTL_GNTALLOC_ALLOC_GREF's four words, with room for as many grants as can be given.
    call(unsafe { libc::ioctl(fd, 0x18_4705, argument.as_mut_ptr()) })?;
    let index = u64::from(argument[2]) | u64::from(argument[3]) << 32;
    let grefs = argument[4..][..count as usize].iter();
    Ok(join(
        [index].into_iter().chain(grefs.map(|gref| (*gref).into())),
    ))
}

fn map(fd: i32, index: u64, pages: usize, how: &str) -> io::Result<String> {
    let how = if how == "shared" {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (len, index) = (pages * PAGE_SIZE, index as libc::off_t);
    // SAFETY: a new mapping where the kernel likes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, how, fd, index) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((at as usize).to_string())
}
