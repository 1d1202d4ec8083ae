//! Who segments guests' large TCP packets for each uplink, as the running netback says.
use super::Finding;
use super::view::View;
use crate::observe::status::{Bulk, Uplink};

/// A finding for each uplink that netback serves; none where netback does not run.
pub(super) fn check(view: &View) -> impl Iterator<Item = Finding> {
    view.uplinks.iter().filter_map(lane)
}

/// The way of large packets by an uplink, with its queues named where they differ.
fn lane(uplink: &Uplink) -> Option<Finding> {
    let mut ways: Vec<(String, Vec<String>)> = Vec::new();
    for queue in &uplink.queues {
        let (way, number) = (way(&queue.bulk), queue.queue.to_string());
        match ways.iter_mut().find(|(known, _)| *known == way) {
            Some((_, queues)) => queues.push(number),
            None => ways.push((way, vec![number])),
        }
    }
    let by = match ways.as_slice() {
        [] => return None,
        [(way, _)] => way.clone(),
        several => {
            let parts = several
                .iter()
                .map(|(way, queues)| format!("on queue {} {way}", queues.join(", ")));
            parts.collect::<Vec<_>>().join("; ")
        }
    };
    let what = format!("large packets to {} are segmented {by}", uplink.ifname);
    Some(Finding::info("bulk", what, ""))
}

fn way(bulk: &Bulk) -> String {
    match (&*bulk.segmented_by, &bulk.reason) {
        ("device", _) => "by the device".into(),
        (other, None) => format!("by {other}"),
        (other, Some(reason)) => format!("by {other}, because {reason}"),
    }
}
