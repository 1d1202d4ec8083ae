//! Cycles a packet of a bare xsk-rs sender on veth, and of `XskDevice` in the same run: the difference is what our frames,
//! rings and counters cost.
use anyhow::Context;
use benches::median::median;
use benches::place::{Place, cycles_per_ns, thread_time};
use benches::sender::{BATCH, BareSender};
use std::collections::VecDeque;
use xsk_bridge::device::xsk::{Options, XskDevice};
use xsk_bridge::device::{Device, Rest};
use xsk_bridge::frame::{DATA_CAPACITY, FramePool, Rings, Umem};
use xsk_bridge::packet::{Offload, Packet};
use xsk_bridge::xdp;

const PACKETS: usize = 50_000;
const PAIRS: usize = 7;
/// An experimental EtherType, so that nobody listens.
const FRAME: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];

fn main() -> anyhow::Result<()> {
    let place = Place::enter().context("a bench on veth needs root")?;
    place.veth("bare", "far1")?;
    place.veth("ours", "far2")?;
    let mut bare = BareSender::open("bare", &FRAME)?;
    let mut ours = OurSender::open("ours", &place)?;
    let rate = cycles_per_ns();
    println!("cycles of the sending thread a packet, median of {PAIRS} pairs of {PACKETS} packets");
    println!("{:>6} {:>8} {:>8} {:>8}", "bytes", "bare", "uplink", "ours");
    for len in [64, 512, 1500] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            a.push(rate * measure(|packets| bare.send(packets, len))?);
            b.push(rate * measure(|packets| ours.send(packets, len))?);
        }
        let (a, b) = (median(a), median(b));
        println!("{len:>6} {a:>8.0} {b:>8.0} {:>8.0}", b - a);
    }
    Ok(())
}

/// Nanoseconds a packet that `send` takes, after a run to warm up; it says how many it sent.
fn measure(mut send: impl FnMut(usize) -> anyhow::Result<usize>) -> anyhow::Result<f64> {
    send(PACKETS / 10)?;
    let start = thread_time();
    let sent = send(PACKETS)?;
    Ok((thread_time() - start).as_nanos() as f64 / sent as f64)
}

/// The same over the device, with a pool of frames as a worker has it.
struct OurSender {
    device: XskDevice,
    pool: FramePool,
    queue: VecDeque<Packet>,
}

impl OurSender {
    fn open(ifname: &str, place: &Place) -> anyhow::Result<Self> {
        let attachment = xdp::install_or_adopt(ifname, &place.bpf_dir())?;
        let rings = Rings {
            recv: 1024,
            send: 1024,
        };
        let (umem, mut frames) = Umem::for_af_xdp(rings.frames(), rings)?;
        for token in &mut frames {
            umem.data_mut(token)[..DATA_CAPACITY].fill(0);
            umem.data_mut(token)[..FRAME.len()].copy_from_slice(&FRAME);
        }
        let mut pool = FramePool::new(&umem);
        pool.extend(frames);
        let device = XskDevice::open(&umem, &attachment, 0, Options::default())?;
        Ok(Self {
            device,
            pool,
            queue: VecDeque::with_capacity(BATCH),
        })
    }

    fn send(&mut self, packets: usize, len: usize) -> anyhow::Result<usize> {
        let mut sent = 0;
        while sent < packets {
            for _ in 0..self.device.room(&mut self.pool).min(BATCH) {
                let Some(token) = self.pool.take() else { break };
                self.queue
                    .push_back(Packet::new(token, len as u32, Offload::default()));
                sent += 1;
            }
            while self.device.send(&mut self.queue, &mut self.pool).rest == Rest::InRing {}
        }
        Ok(sent)
    }
}
