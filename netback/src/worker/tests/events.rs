//! Event channels: no wake-up is lost, and a storm is neither heard nor paid for.
use super::rig::{OUTSIDE, Rig, frame, mac};
use std::time::Duration;

#[test]
fn work_that_comes_while_a_queue_is_put_to_rest_is_found() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    rig.settle();
    assert!(rig.workers[0].rest(0));
    // At rest the ring is armed, so the frontend is asked to send an event.
    guest.push(&frame(OUTSIDE, guest.mac(), 60, 1), &[60], 0);
    assert!(guest.tx.publish());
    rig.settle();
    assert!(
        rig.sent_to_wire().is_empty(),
        "nobody looks at a resting ring without an event"
    );
    rig.events[0].fire(guest.event());
    rig.turns(1);
    assert_eq!(rig.sent_to_wire().len(), 1);
    // Active now: more is found without an event, and none is asked for.
    guest.push(&frame(OUTSIDE, guest.mac(), 60, 2), &[60], 0);
    assert!(!guest.tx.publish());
    rig.turns(1);
    assert_eq!(rig.sent_to_wire().len(), 1);
    // An event while the port is masked is delivered once it is not.
    rig.events[0].fire(guest.event());
    rig.turns(1);
    let events = guest.stats.events.get();
    assert!(rig.workers[0].rest(0));
    rig.turns(1);
    assert_eq!(guest.stats.events.get(), events + 1);
}

#[test]
fn work_found_at_the_last_look_keeps_the_queue_awake() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    rig.settle();
    guest.send(&frame(OUTSIDE, guest.mac(), 60, 1));
    assert!(!rig.workers[0].rest(0));
    rig.turns(1);
    assert_eq!(rig.sent_to_wire().len(), 1);
}

#[test]
fn a_storm_without_work_is_heard_ever_more_seldom_and_costs_others_nothing() {
    let mut rig = Rig::new();
    let (stormy, mut honest) = (rig.guest(1), rig.guest(2));
    rig.settle();
    rig.workers[0].rest(0);
    for seed in 0..2000 {
        rig.events[0].fire(stormy.event());
        honest.send(&frame(OUTSIDE, honest.mac(), 60, seed));
        rig.events[0].fire(honest.event());
        rig.settle();
        assert_eq!(honest.take_statuses(), [0]);
        rig.workers[0].rest(0);
        rig.sent_to_wire();
    }
    let heard = stormy.stats.events.get();
    assert!(heard < 200, "heard {heard} events of 2000");
    assert!(
        honest.stats.events.get() >= 1000,
        "an event with work is no spurious one"
    );
}

#[test]
fn a_penalised_guest_is_served_once_its_time_is_over() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    rig.settle();
    rig.workers[0].rest(0);
    for _ in 0..50 {
        rig.events[0].fire(guest.event());
        rig.turns(1);
        rig.workers[0].rest(0);
    }
    guest.send(&frame(OUTSIDE, guest.mac(), 60, 1));
    rig.events[0].fire(guest.event());
    let mut served = false;
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(1));
        rig.turns(1);
        served = !rig.sent_to_wire().is_empty();
        if served {
            break;
        }
    }
    assert!(served, "an event was lost");
}

#[test]
fn a_sleeping_thread_wakes_for_guests_and_for_control() {
    use crate::worker::messages::{FromWorker, ToWorker};
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    let mut worker = rig.workers.remove(0);
    let (waker, stats) = (worker.waker.clone(), worker.stats.clone());
    let asleep = || {
        while stats.sleeps.get() == 0 {
            std::thread::yield_now()
        }
    };
    let thread = std::thread::spawn(move || worker.run());
    for seed in 0..50 {
        asleep();
        guest.push(&frame(OUTSIDE, mac(1), 60, seed), &[60], 0);
        // As a frontend does: an event only where the ring asks for one.
        if guest.tx.publish() {
            rig.events[0].fire(guest.event());
        }
        while guest.unanswered() > 0 {
            guest.read_answers();
            std::thread::yield_now();
        }
    }
    rig.tell(0, ToWorker::Stop);
    waker.wake();
    thread.join().unwrap();
    assert!(matches!(rig.outboxes[0].pop(), Some(FromWorker::Stopped)));
    assert_eq!(guest.statuses, [0; 50]);
}

#[test]
fn a_packet_that_waits_behind_a_queue_at_rest_has_the_guest_send_an_event() {
    let mut rig = Rig::new();
    let (mut sender, mut receiver) = (rig.guest(1), rig.guest(2));
    rig.settle();
    assert!(rig.workers[0].may_sleep(), "both are at rest");
    let bytes = frame(receiver.mac(), sender.mac(), 6000, 1);
    sender.push(&bytes, &[4096, 1904], 0);
    assert!(sender.tx.publish());
    rig.events[0].fire(sender.event());
    rig.settle();
    assert!(rig.workers[0].may_sleep());
    receiver.post(1);
    assert!(!receiver.asked_for_event, "one slot is not enough");
    receiver.post(1);
    assert!(
        receiver.asked_for_event,
        "the packet waits for an event that never comes"
    );
    rig.events[0].fire(receiver.event());
    rig.turns(1);
    assert_eq!(receiver.receive()[0].bytes, bytes);
}

#[test]
fn a_worker_does_not_sleep_on_a_backlog_for_which_requests_are_posted() {
    let mut rig = Rig::new();
    let mut guest = rig.guest(1);
    for seed in 0..200 {
        rig.arrive_from_wire(&frame(guest.mac(), OUTSIDE, 100, seed));
    }
    rig.settle();
    assert!(rig.workers[0].may_sleep());
    guest.post(200);
    let mut received = 0;
    while received < 200 {
        assert!(
            !rig.workers[0].may_sleep(),
            "{received} of 200 are delivered"
        );
        rig.turns(1);
        received += guest.receive().len();
    }
    rig.settle();
    assert!(rig.workers[0].may_sleep());
}
