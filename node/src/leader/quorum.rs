//! Since when a quorum is known to follow this leader. A leader renews leases only by a confirmation that was asked for
//! after the report arrived (docs/internals/leases.md#quorum-after-report). Pure: only the order of events counts here.

use crate::mutations::{Mutation, planted};

/// One place in the order of events at one peer: a later event draws a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Whether a quorum followed this leader after a ticket was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    Given,
    /// The quorum that was waited for did not answer.
    Denied,
    /// Ask the quorum this question, and confirm again when it has its answer.
    Ask(Ticket),
    /// Somebody asks this question already: confirm again when it has its answer.
    Wait(Ticket),
}

/// Tickets, and the questions to the quorum: one at a time, for all who wait.
#[derive(Default)]
pub struct Quorum {
    last: Ticket,
    /// The quorum followed when this was drawn.
    confirmed: Ticket,
    /// The last question that the quorum did not answer.
    denied: Ticket,
    asked: Option<Ticket>,
}

impl Quorum {
    /// Draws a ticket.
    pub fn ticket(&mut self) -> Ticket {
        self.last = Ticket(self.last.0 + 1);
        self.last
    }

    /// Whether the quorum followed after `ticket` was drawn. `waited_for`: the question whose answer was waited for.
    pub fn confirm(&mut self, ticket: Ticket, waited_for: Option<Ticket>) -> Confirmation {
        if planted(Mutation::RenewWithoutQuorum) {
            return Confirmation::Given;
        }
        if waited_for.is_some_and(|question| question <= self.denied) {
            return Confirmation::Denied;
        }
        if self.confirmed > ticket {
            return Confirmation::Given;
        }
        match self.asked {
            Some(question) => Confirmation::Wait(question),
            None => {
                let question = self.ticket();
                self.asked = Some(question);
                Confirmation::Ask(question)
            }
        }
    }

    /// The quorum answered, or did not.
    pub fn answered(&mut self, question: Ticket, follows: bool) {
        self.withdrawn(question);
        let known = if follows { &mut self.confirmed } else { &mut self.denied };
        *known = question.max(*known);
    }

    /// Nobody asks this question any more: whoever waited for its answer asks another one.
    pub fn withdrawn(&mut self, question: Ticket) {
        self.asked = self.asked.filter(|asked| *asked != question);
    }

    /// An entry was committed that was proposed when `ticket` was drawn: a quorum followed then.
    pub fn committed(&mut self, ticket: Ticket) {
        self.confirmed = ticket.max(self.confirmed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The question that has to be asked now.
    fn asked(quorum: &mut Quorum, ticket: Ticket) -> Ticket {
        match quorum.confirm(ticket, None) {
            Confirmation::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_confirmation_holds_only_for_what_came_before_it_was_asked_for() {
        let mut quorum = Quorum::default();
        let before = quorum.ticket();
        let question = asked(&mut quorum, before);
        let after = quorum.ticket();
        assert_eq!(quorum.confirm(after, None), Confirmation::Wait(question));
        quorum.answered(question, true);
        assert_eq!(quorum.confirm(before, Some(question)), Confirmation::Given);
        let next = match quorum.confirm(after, Some(question)) {
            Confirmation::Ask(next) => next,
            other => panic!("it came while the question was under way: {other:?}"),
        };
        assert!(next > after);
    }

    #[test]
    fn a_quorum_that_does_not_answer_denies_all_who_wait_and_nobody_else() {
        let mut quorum = Quorum::default();
        let (first, second, third) = (quorum.ticket(), quorum.ticket(), quorum.ticket());
        let question = asked(&mut quorum, first);
        assert_eq!(quorum.confirm(second, None), Confirmation::Wait(question));
        quorum.answered(question, false);
        for waited in [first, second] {
            assert_eq!(quorum.confirm(waited, Some(question)), Confirmation::Denied);
        }
        assert!(matches!(quorum.confirm(third, None), Confirmation::Ask(_)), "it did not wait");
    }

    #[test]
    fn a_question_that_is_withdrawn_is_asked_by_who_waits() {
        let mut quorum = Quorum::default();
        let (first, second) = (quorum.ticket(), quorum.ticket());
        let question = asked(&mut quorum, first);
        assert_eq!(quorum.confirm(second, None), Confirmation::Wait(question));
        quorum.withdrawn(question);
        let Confirmation::Ask(another) = quorum.confirm(second, Some(question)) else {
            panic!("nobody asks")
        };
        quorum.withdrawn(question);
        assert_eq!(
            quorum.confirm(first, None),
            Confirmation::Wait(another),
            "an old question ends no new one"
        );
    }

    #[test]
    fn an_entry_confirms_from_when_it_was_proposed() {
        let mut quorum = Quorum::default();
        let before = quorum.ticket();
        let proposed = quorum.ticket();
        let after = quorum.ticket();
        quorum.committed(proposed);
        assert_eq!(quorum.confirm(before, None), Confirmation::Given);
        assert!(matches!(quorum.confirm(after, None), Confirmation::Ask(_)));
        assert!(matches!(quorum.confirm(proposed, None), Confirmation::Wait(_)), "not later than itself");
    }
}
