//! A stream's credit: whoever keeps to it is never refused and never stuck, whoever does not is caught
//! at once, and a receiver holds no more than its window.

use proptest::collection::vec;
use proptest::prelude::*;
use quantix::credit::{Fault, ReceiveCredit, SendCredit};

#[derive(Clone, Debug)]
enum Step {
    /// As much as the credit has, and no more than this.
    Send(usize),
    /// The receiver takes out of its memory no more than this.
    Consume(usize),
    /// So many bytes more than the credit has.
    Overspend(usize),
    /// From so many bytes further on.
    Gap(u64),
    /// From the begin of what came last.
    Repeat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1usize..40_000).prop_map(Step::Send),
        5 => (1usize..40_000).prop_map(Step::Consume),
        1 => (1usize..1000).prop_map(Step::Overspend),
        1 => (1u64..1000).prop_map(Step::Gap),
        1 => Just(Step::Repeat),
    ]
}

fn available(sender: &SendCredit) -> usize {
    usize::try_from(sender.available()).unwrap()
}

proptest! {
    #[test]
    fn credit_is_kept_to_and_enforced(
        window in 2u64..300_000,
        steps in vec(step(), 1..200),
    ) {
        let mut sender = SendCredit::default();
        let mut receiver = ReceiveCredit::new(window);
        let (mut held, mut last) = (0, 0);
        for step in steps {
            // What the receiver says arrives in its order, if not at once.
            if let Some(total) = receiver.grant() {
                sender.allow(total);
            }
            match step {
                Step::Send(most) => {
                    let bytes = most.min(available(&sender));
                    let offset = sender.spend(bytes);
                    prop_assert_eq!(receiver.receive(offset, bytes), Ok(()));
                    held += bytes;
                    last = if bytes > 0 { bytes } else { last };
                }
                Step::Consume(most) => {
                    let bytes = most.min(held);
                    receiver.consume(bytes);
                    held -= bytes;
                }
                Step::Overspend(more) => {
                    let bytes = available(&sender) + more;
                    prop_assert_eq!(receiver.receive(sender.sent(), bytes), Err(Fault::Overspent));
                }
                Step::Gap(more) => {
                    prop_assert_eq!(receiver.receive(sender.sent() + more, 1), Err(Fault::Gap));
                }
                Step::Repeat if last > 0 => {
                    let again = sender.sent() - last as u64;
                    prop_assert_eq!(receiver.receive(again, last), Err(Fault::Gap));
                }
                Step::Repeat => {}
            }
            prop_assert!(held as u64 <= window, "{held} bytes of {window}");
            prop_assert_eq!(receiver.received(), sender.sent());
        }
        // Whoever takes all that came is always sent more.
        receiver.consume(held);
        if let Some(total) = receiver.grant() {
            sender.allow(total);
        }
        prop_assert!(sender.available() > 0);
    }
}
