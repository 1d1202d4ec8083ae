//! VLANs of a port (IEEE 802.1Q): which ones it is in, with a tag or without.
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use thiserror::Error;

/// The VLAN whose frames have no tag on the wire, as on a Linux bridge (`default_pvid`) and on nearly every switch.
pub const NATIVE: u16 = 1;
/// The highest number of a VLAN; 4095 is reserved.
pub const LAST: u16 = 4094;
/// How frames of a VLAN are on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Without a tag.
    Untagged,
    /// With the VLAN's tag.
    Tagged,
    /// As they come: the switch knows no VLANs.
    Any,
}

/// The VLANs that a port is in.
#[derive(Clone, PartialEq, Eq)]
pub struct Vlans {
    /// The VLAN of frames that come in without a tag.
    pvid: u16,
    /// VLANs whose frames go out without a tag, `pvid` among them.
    untagged: Set,
    /// VLANs whose frames go out with a tag.
    tagged: Set,
}

impl Vlans {
    /// An access port: in one VLAN, without a tag.
    pub fn access(vid: u16) -> Self {
        let mut untagged = Set::default();
        untagged.insert(vid);
        Self {
            pvid: vid,
            untagged,
            tagged: Set::default(),
        }
    }

    /// The VLAN of frames that come in without a tag.
    pub fn pvid(&self) -> u16 {
        self.pvid
    }

    /// How frames of a VLAN go out; `None`: the port is not in it.
    #[inline]
    pub fn form(&self, vid: u16) -> Option<Form> {
        match (self.untagged.contains(vid), self.tagged.contains(vid)) {
            (true, _) => Some(Form::Untagged),
            (false, true) => Some(Form::Tagged),
            (false, false) => None,
        }
    }

    /// Adds the VLANs of one term of the key `vlan`.
    fn add(&mut self, term: &str) -> Result<(), InvalidVlans> {
        let wrong = || InvalidVlans::Term(term.chars().take(32).collect());
        let (range, flag) = match term.strip_suffix(['p', 'u']) {
            Some(range) => (range, &term[range.len()..]),
            None => (term, ""),
        };
        let number = |text: &str| number(text).ok_or_else(wrong);
        let (first, step, count) = if let Some((first, last)) = range.split_once('-') {
            let (first, last) = (number(first)?, number(last)?);
            (first, 1, last.checked_sub(first).ok_or_else(wrong)? + 1)
        } else if let Some((first, rest)) = range.split_once('+') {
            let (step, count) = rest.split_once('x').ok_or_else(wrong)?;
            (number(first)?, number(step)?, number(count)?)
        } else {
            (number(range)?, 1, 1)
        };
        let single = !range.contains(['-', '+']);
        if count == 0 || (flag == "p" && !single) {
            return Err(wrong());
        }
        // Ends soon: a number that is out of range or there already is refused.
        for n in 0..count {
            let vid = u64::from(first) + u64::from(step) * u64::from(n);
            let vid = u16::try_from(vid)
                .ok()
                .filter(|vid| (1..=LAST).contains(vid));
            let vid = vid.ok_or_else(|| InvalidVlans::Range(term.chars().take(32).collect()))?;
            if self.form(vid).is_some() {
                return Err(InvalidVlans::Twice(vid));
            }
            match flag {
                "" => self.tagged.insert(vid),
                _ => self.untagged.insert(vid),
            }
            if flag == "p" {
                if self.pvid != 0 {
                    return Err(InvalidVlans::TwoPvids(self.pvid, vid));
                }
                self.pvid = vid;
            }
        }
        Ok(())
    }
}

/// The key `vlan` as xl-network-configuration(5) has it since Xen 4.19: terms separated by `/`, each a VLAN, a range `10-15`, or
/// `100+10x4` for four VLANs ten apart, as the stock script counts them; `p` marks the VLAN of frames without a tag, `u` VLANs that go
/// out without one. A single VLAN is that of frames without a tag.
impl FromStr for Vlans {
    type Err = InvalidVlans;

    fn from_str(text: &str) -> Result<Self, InvalidVlans> {
        let text = text.trim_end();
        let mut vlans = Self {
            pvid: 0,
            untagged: Set::default(),
            tagged: Set::default(),
        };
        for term in text.split('/') {
            vlans.add(term)?;
        }
        if vlans.pvid == 0 {
            let mut all = vlans.tagged.iter().chain(vlans.untagged.iter());
            return match (all.next(), all.next()) {
                (Some(only), None) => Ok(Self::access(only)),
                _ => Err(InvalidVlans::NoPvid),
            };
        }
        Ok(vlans)
    }
}

/// As the key `vlan` says it, consecutive VLANs as a range.
impl Display for Vlans {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut others = self.untagged.clone();
        others.remove(self.pvid);
        write!(f, "{}", self.pvid)?;
        if !(others.is_empty() && self.tagged.is_empty()) {
            f.write_str("p")?;
        }
        for (set, flag) in [(&self.tagged, ""), (&others, "u")] {
            for (first, last) in set.runs() {
                match first == last {
                    true => write!(f, "/{first}{flag}")?,
                    false => write!(f, "/{first}-{last}{flag}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Vlans {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Vlans({self})")
    }
}

/// Why a key `vlan` says nothing that can be done; one line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidVlans {
    /// Not one of the forms of a term.
    #[error("{0:?} is no VLAN, no range as 10-15 and no series as 100+10x4")]
    Term(String),
    /// A VLAN out of range.
    #[error("{0:?} is out of range: VLANs are 1 to 4094")]
    Range(String),
    /// A VLAN that is named twice.
    #[error("VLAN {0} is named twice")]
    Twice(u16),
    /// Two VLANs for frames without a tag.
    #[error("VLANs {0} and {1} are both marked p, and one only is that of frames without a tag")]
    TwoPvids(u16, u16),
    /// Several VLANs, and none for frames without a tag.
    #[error("none of its VLANs is marked p as that of frames without a tag")]
    NoPvid,
}

/// A plain decimal number that may be one of a VLAN, or count some.
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// A set of VLANs, a bit for each number from 0 to 4095.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set(Box<[u64; 64]>);

impl Default for Set {
    fn default() -> Self {
        Self(Box::new([0; 64]))
    }
}

impl Set {
    fn insert(&mut self, vid: u16) {
        self.0[usize::from(vid) / 64] |= 1 << (vid % 64);
    }

    fn remove(&mut self, vid: u16) {
        self.0[usize::from(vid) / 64] &= !(1 << (vid % 64));
    }

    #[inline]
    fn contains(&self, vid: u16) -> bool {
        let word = self.0.get(usize::from(vid) / 64);
        word.is_some_and(|word| word >> (vid % 64) & 1 != 0)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (1..=LAST).filter(|vid| self.contains(*vid))
    }

    /// First and last VLAN of each run of consecutive ones.
    fn runs(&self) -> Vec<(u16, u16)> {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for vid in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == vid => *last = vid,
                _ => runs.push((vid, vid)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forms(text: &str) -> Vec<(u16, Form)> {
        let vlans: Vlans = text.parse().unwrap();
        let form = |vid| Some((vid, vlans.form(vid)?));
        (0..=u16::MAX).filter_map(form).collect()
    }

    #[test]
    fn a_key_says_what_the_stock_script_takes_it_for() {
        let (t, u) = (Form::Tagged, Form::Untagged);
        for (text, pvid, expected) in [
            ("10", 10, vec![(10, u)]),
            ("10u", 10, vec![(10, u)]),
            ("10p/20", 10, vec![(10, u), (20, t)]),
            (
                "1p/10-12/20-21u",
                1,
                vec![(1, u), (10, t), (11, t), (12, t), (20, u), (21, u)],
            ),
            (
                "10p/20/100+10x4",
                10,
                vec![(10, u), (20, t), (100, t), (110, t), (120, t), (130, t)],
            ),
            ("4094\n", 4094, vec![(4094, u)]),
            ("7+0x1", 7, vec![(7, u)]),
        ] {
            assert_eq!(forms(text), expected, "{text}");
            assert_eq!(text.parse::<Vlans>().unwrap().pvid(), pvid);
        }
    }

    #[test]
    fn a_key_that_says_nothing_sensible_is_refused_in_one_line() {
        for (text, line) in [
            (
                "",
                "\"\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "ten",
                "\"ten\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "10p/",
                "\"\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "010",
                "\"010\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "20-10",
                "\"20-10\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "10-20p",
                "\"10-20p\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            (
                "10+1x0",
                "\"10+1x0\" is no VLAN, no range as 10-15 and no series as 100+10x4",
            ),
            ("0", "\"0\" is out of range: VLANs are 1 to 4094"),
            ("4095", "\"4095\" is out of range: VLANs are 1 to 4094"),
            (
                "1p/4000+50x3",
                "\"4000+50x3\" is out of range: VLANs are 1 to 4094",
            ),
            (
                "99999-99999",
                "\"99999-99999\" is out of range: VLANs are 1 to 4094",
            ),
            ("10p/10", "VLAN 10 is named twice"),
            ("7+0x99999", "VLAN 7 is named twice"),
            (
                "10p/20p",
                "VLANs 10 and 20 are both marked p, and one only is that of frames without a tag",
            ),
            (
                "10/20",
                "none of its VLANs is marked p as that of frames without a tag",
            ),
        ] {
            assert_eq!(
                text.parse::<Vlans>().unwrap_err().to_string(),
                line,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_port_or_one_line(text in "[0-9pux/+\\-]{0,24}") {
            match text.parse::<Vlans>() {
                Ok(vlans) => {
                    prop_assert_eq!(vlans.form(vlans.pvid()), Some(Form::Untagged));
                    prop_assert_eq!(vlans.to_string().parse::<Vlans>(), Ok(vlans));
                }
                Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
            }
        }
    }
}
