//! What documents and `stint.v1` do not say alike: there, 0 and an empty text stand for what is not there.

mod settings;

pub fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub fn counted(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number != 0)
}

/// Each document's elements, turned into the other form.
pub fn all<A, B: From<A>>(elements: Vec<A>) -> Vec<B> {
    elements.into_iter().map(B::from).collect()
}
