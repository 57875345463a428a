//! A line in which a client counts its own requests at the head of a system text. It differs each time, so that nothing of
//! a prompt behind it could be reused.

const BILLING: &str = "x-anthropic-billing-header:";

/// A text without a first line that only counts requests.
pub fn without_billing(text: &str) -> &str {
    if !text.starts_with(BILLING) {
        return text;
    }
    text.split_once('\n')
        .map_or("", |(_, rest)| rest.trim_start_matches('\n'))
}
