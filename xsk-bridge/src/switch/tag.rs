//! The VLAN of a frame, and what its tag becomes on its way from one port to another.
use super::vlan::Form;
use crate::header::{ETHERNET_LEN, VLAN_TAG_LEN};

/// EtherType of a customer tag, the only one that VLANs are told by here; a service tag is payload.
const TAG: [u8; 2] = [0x81, 0x00];
/// Where a tag is in a frame: behind both addresses.
const TAG_AT: usize = 12;

/// The VLAN that a frame is in, and the tag that it carries now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InVlan {
    /// The VLAN, as the FDB keeps it.
    pub vid: u16,
    /// The VLAN in the frame's own tag, where it has one that counts; 0: a priority tag.
    tag: Option<u16>,
}

impl InVlan {
    /// A frame of VLAN `vid` whose header says what tag it carries.
    pub(super) fn new(vid: u16, tag: Option<u16>) -> Self {
        Self { vid, tag }
    }

    /// What becomes of the frame's tag where it goes out in `form`.
    #[inline]
    pub fn retag(self, form: Form) -> Retag {
        match (self.tag, form) {
            (_, Form::Any) | (None, Form::Untagged) => Retag::Keep,
            (None, Form::Tagged) => Retag::Push(self.vid),
            (Some(_), Form::Untagged) => Retag::Pop,
            (Some(tag), Form::Tagged) if tag == self.vid => Retag::Keep,
            (Some(_), Form::Tagged) => Retag::Set(self.vid),
        }
    }

    /// The frame once `retag` was done to it.
    pub fn after(self, retag: Retag) -> Self {
        let tag = match retag {
            Retag::Keep => self.tag,
            Retag::Push(vid) | Retag::Set(vid) => Some(vid),
            Retag::Pop => None,
        };
        Self { tag, ..self }
    }
}

/// What is to be done to a frame's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retag {
    /// Nothing.
    Keep,
    /// A tag of this VLAN goes in.
    Push(u16),
    /// The tag comes out.
    Pop,
    /// The tag becomes one of this VLAN; its priority stays.
    Set(u16),
}

/// The beginning of a frame that is retagged: [`Self::bytes`], and then the frame's own from [`Self::skip`] on.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    bytes: [u8; TAG_AT + VLAN_TAG_LEN],
    len: u8,
    /// Bytes of the frame that the new beginning stands for.
    pub skip: usize,
}

impl Beginning {
    /// The new first bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl Retag {
    /// The beginning of the frame that starts with `head`; `None` where it is too short to be one.
    #[inline]
    pub fn beginning(self, head: &[u8]) -> Option<Beginning> {
        let mut bytes = [0; TAG_AT + VLAN_TAG_LEN];
        let (len, skip) = match self {
            Retag::Keep => (0, 0),
            Retag::Push(vid) => {
                bytes[..TAG_AT].copy_from_slice(head.get(..TAG_AT)?);
                bytes[TAG_AT..ETHERNET_LEN].copy_from_slice(&TAG);
                bytes[ETHERNET_LEN..].copy_from_slice(&vid.to_be_bytes());
                (bytes.len(), TAG_AT)
            }
            Retag::Pop => {
                bytes.copy_from_slice(head.get(..TAG_AT + VLAN_TAG_LEN)?);
                (TAG_AT, bytes.len())
            }
            Retag::Set(vid) => {
                bytes.copy_from_slice(head.get(..TAG_AT + VLAN_TAG_LEN)?);
                bytes[ETHERNET_LEN] = bytes[ETHERNET_LEN] & 0xf0 | (vid >> 8) as u8;
                bytes[ETHERNET_LEN + 1] = vid as u8;
                (bytes.len(), bytes.len())
            }
        };
        Some(Beginning {
            bytes,
            len: len as u8,
            skip,
        })
    }
}

/// The VLAN in a frame's tag and whether another tag follows it; `Ok(None)` without a tag. `Err`: the header ends in the tag.
#[inline]
pub(super) fn read(header: &[u8]) -> Result<Option<(u16, bool)>, ()> {
    if header.get(TAG_AT..ETHERNET_LEN) != Some(&TAG[..]) {
        return Ok(None);
    }
    match header.get(ETHERNET_LEN..ETHERNET_LEN + VLAN_TAG_LEN) {
        Some(&[high, low, third, fourth]) => {
            let vid = u16::from_be_bytes([high, low]) & 0x0fff;
            Ok(Some((vid, [third, fourth] == TAG)))
        }
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_retagged_for_the_port_it_goes_out_by() {
        let frame: Vec<u8> = (0..30).collect();
        let retagged = |frame: &[u8], retag: Retag| {
            let beginning = retag.beginning(frame).unwrap();
            [beginning.bytes(), &frame[beginning.skip..]].concat()
        };
        let tagged = retagged(&frame, Retag::Push(0x123));
        let expected = [&frame[..12], &[0x81, 0, 0x01, 0x23], &frame[12..]].concat();
        assert_eq!(tagged, expected);
        assert_eq!(read(&tagged), Ok(Some((0x123, false))));
        assert_eq!(retagged(&tagged, Retag::Pop), frame);
        let mut priority = tagged.clone();
        priority[14..16].copy_from_slice(&[0xe0, 0]);
        let set = retagged(&priority, Retag::Set(0x123));
        assert_eq!(set[14..16], [0xe1, 0x23]);
        assert_eq!((&set[..14], &set[16..]), (&tagged[..14], &tagged[16..]));
        assert_eq!(retagged(&set, Retag::Keep), set);
        assert!(Retag::Pop.beginning(&tagged[..15]).is_none());
        assert!(Retag::Push(1).beginning(&frame[..11]).is_none());
    }

    #[test]
    fn a_tag_is_kept_where_both_ports_have_it() {
        let (plain, tagged) = (InVlan::new(10, None), InVlan::new(10, Some(10)));
        assert_eq!(plain.retag(Form::Untagged), Retag::Keep);
        assert_eq!(plain.retag(Form::Tagged), Retag::Push(10));
        assert_eq!(tagged.retag(Form::Tagged), Retag::Keep);
        assert_eq!(tagged.retag(Form::Untagged), Retag::Pop);
        let priority = InVlan::new(10, Some(0));
        assert_eq!(priority.retag(Form::Tagged), Retag::Set(10));
        assert_eq!(priority.retag(Form::Any), Retag::Keep);
        for frame in [plain, tagged, priority] {
            for form in [Form::Untagged, Form::Tagged] {
                assert_eq!(frame.after(frame.retag(form)).retag(form), Retag::Keep);
            }
        }
    }
}
