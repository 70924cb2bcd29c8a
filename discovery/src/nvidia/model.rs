//! A short model from NVIDIA's product names.

/// Words that say who makes it or for whom.
const BRANDS: [&str; 5] = ["NVIDIA", "Tesla", "Quadro", "GeForce", "GRID"];

/// The model: of the product's words (separated by blanks and `-`, without the brands above) the first that has a
/// digit. One that is only a number has the word before it put in front. `NVIDIA H100 80GB HBM3` is `H100`,
/// `NVIDIA A100-SXM4-40GB` is `A100`, `NVIDIA L40S` is `L40S`, `NVIDIA GeForce RTX 4090` is `RTX4090`. A name without
/// digits is what is left of it.
pub(crate) fn model(product: &str) -> String {
    let words: Vec<&str> = product
        .split(|c: char| c.is_whitespace() || c == '-')
        .filter(|word| !word.is_empty() && !BRANDS.iter().any(|brand| brand.eq_ignore_ascii_case(word)))
        .collect();
    let Some(place) = words.iter().position(|word| word.bytes().any(|b| b.is_ascii_digit())) else {
        return words.join(" ");
    };
    let number = words.get(place).copied().unwrap_or_default();
    let before = place.checked_sub(1).and_then(|before| words.get(before)).copied().unwrap_or_default();
    if number.bytes().all(|b| b.is_ascii_digit()) { format!("{before}{number}") } else { number.to_owned() }
}
