//! New passwords, from the kernel's randomness.
//! Leaves where they are kept to the files that hold them, and hiding them to [`Secret`].

use pgherd_api::Secret;

/// Letters and digits that no format needs to escape (URL, YAML, pgpass, shell).
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

const LENGTH: usize = 28;

/// A new password: 28 characters, about 166 bits.
pub(crate) fn generate() -> Result<Secret, getrandom::Error> {
    let mut text = String::with_capacity(LENGTH);
    let mut bytes = [0_u8; 64];
    while text.len() < LENGTH {
        getrandom::fill(&mut bytes)?;
        // Bytes from 248 up would prefer the alphabet's beginning.
        let fair = bytes.iter().filter(|b| **b < 248);
        let letters = fair.map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
        text.extend(letters.take(LENGTH - text.len()));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_differ_and_hide() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_eq!(a.reveal().len(), LENGTH);
        assert_ne!(a, b);
        assert!(!format!("{a:?}").contains(a.reveal()));
    }
}
