//! Requests to the hypervisor process: one datagram each way on a SOCK_SEQPACKET, descriptors beside it.
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes of text beside a request or reply.
pub const TEXT_MAX: usize = 60_000;
/// Descriptors beside a reply.
const FDS_MAX: usize = 3;
const WORDS: usize = 4;

/// What is asked; `a`, `b`, `c` are the request's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Become a domain of `a` pages named by the text. Reply: domid, handle; machine, memory, pipe.
    Create = 1,
    /// Act as domain `a`, until the connection closes. Reply: machine.
    Attach,
    /// Open a handle, to which ports and granted pages belong. Reply: handle; pipe. It lives as long as somebody has the pipe's
    /// read end.
    Open,
    /// Bind `handle a` to port `c` of domain `b`. Reply: local port.
    Bind,
    /// Take a port for `handle a` that domain `b` may bind. Reply: local port.
    AllocUnbound,
    /// Close port `b` of `handle a`.
    Close,
    /// Reply: the pipe's write end of `handle a`.
    Waker,
    /// Reply: pages; memory of domain `a`.
    Memory,
    /// Map grant `b` of domain `a`, read-only where `c`. Reply: frame, or a GNTST_* status as the second word.
    Map,
    /// Unmap grant `b` of domain `a`.
    Unmap,
    /// Take `c` pages of zeros out of our domain's memory for `handle a`, and grant them to domain `b` for reading and writing.
    /// Reply: text, a line for each with frame and grant.
    Grant,
    /// Take back the grants of `handle a` to the frames that the text lists, and the pages.
    EndGrants,
    /// Reply: a xenstore connection as the domain we are.
    OpenStore,
    /// Reply: the number of the next domain to ask from, 0 for none; text, a line for each of some domains from `a` on, and one
    /// for the store.
    Counts,
    /// Destroy domain `a`.
    Destroy,
    /// Allow each domain `a` xenstore nodes and `b` watches.
    Quota,
}

impl Operation {
    const ALL: [Self; 16] = [
        Self::Create,
        Self::Attach,
        Self::Open,
        Self::Bind,
        Self::AllocUnbound,
        Self::Close,
        Self::Waker,
        Self::Memory,
        Self::Map,
        Self::Unmap,
        Self::Grant,
        Self::EndGrants,
        Self::OpenStore,
        Self::Counts,
        Self::Destroy,
        Self::Quota,
    ];
}

/// A request as it travels.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// Its words.
    pub words: [u32; 3],
    /// Its text.
    pub text: String,
}

/// A reply as it travels.
#[derive(Debug, Default)]
pub struct Reply {
    /// Its words.
    pub words: [u32; 3],
    /// Its text.
    pub text: String,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Reply {
    /// The descriptor that must be there.
    pub fn take_fd(&mut self) -> io::Result<OwnedFd> {
        if self.fds.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the hypervisor sent no descriptor",
            ));
        }
        Ok(self.fds.remove(0))
    }
}

/// Our connection; usable from any thread, one request at a time.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    turn: Mutex<()>,
}

impl Connection {
    /// Connect to the hypervisor that serves `sim_dir`.
    pub fn open(sim_dir: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(sim_dir.join(crate::CONTROL_SOCKET))?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &address)?;
        Ok(Self {
            socket,
            turn: Mutex::new(()),
        })
    }

    /// Ask and wait for the answer; a refusal is the errno the hypervisor gave.
    pub fn call(&self, operation: Operation, words: [u32; 3], text: &str) -> io::Result<Reply> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        send(
            self.socket.as_fd(),
            [operation as u32, words[0], words[1], words[2]],
            text,
            &[],
        )?;
        let (words, text, fds) = receive(self.socket.as_fd())?;
        match words[0] {
            0 => Ok(Reply {
                words: [words[1], words[2], words[3]],
                text,
                fds,
            }),
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }
}

/// Hangs up when the hypervisor goes, or has destroyed our domain.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The hypervisor's end: the next request, an error for a hang-up or what makes no sense.
pub fn receive_request(socket: BorrowedFd<'_>) -> io::Result<Request> {
    let (words, text, _) = receive(socket)?;
    let operation = Operation::ALL
        .into_iter()
        .find(|operation| *operation as u32 == words[0]);
    let operation = operation.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Request {
        operation,
        words: [words[1], words[2], words[3]],
        text,
    })
}

/// The hypervisor's end: answer.
pub fn send_reply(socket: BorrowedFd<'_>, reply: Result<Reply, Errno>) -> io::Result<()> {
    match reply {
        Ok(Reply { words, text, fds }) => {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            send(socket, [0, words[0], words[1], words[2]], &text, &fds)
        }
        Err(errno) => send(socket, [errno.raw_os_error() as u32, 0, 0, 0], "", &[]),
    }
}

fn send(
    socket: BorrowedFd<'_>,
    words: [u32; WORDS],
    text: &str,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut head = [0; WORDS * 4];
    for (chunk, word) in head.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let text = text
        .as_bytes()
        .get(..text.len().min(TEXT_MAX))
        .unwrap_or_default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let slices = [IoSlice::new(&head), IoSlice::new(text)];
    rustix::io::retry_on_intr(|| sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<([u32; WORDS], String, Vec<OwnedFd>)> {
    let mut bytes = vec![0; WORDS * 4 + TEXT_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let bytes = bytes.get(..received.bytes).unwrap_or_default();
    let (head, text) = bytes
        .split_at_checked(WORDS * 4)
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(head.chunks_exact(4)) {
        *word = chunk.try_into().map_or(0, u32::from_ne_bytes);
    }
    Ok((words, String::from_utf8_lossy(text).into_owned(), fds))
}
