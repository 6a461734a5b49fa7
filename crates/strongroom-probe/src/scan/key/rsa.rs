//! RSA's numbers.

use super::Part;
use ssh_key::public::{KeyData, RsaPublicKey};
use ssh_key::{HashAlg, Mpint};
use zeroize::Zeroizing;

/// What is secret of a key, from what the formats have in common; all most significant byte first.
///
/// OpenSSL's BIGNUM, GMP and libgcrypt keep limbs of 64 bits, the least significant first, which on this
/// machine is the whole number in little endian.
pub(super) fn parts(d: &[u8], p: &[u8], q: &[u8], inverse: &[u8]) -> Vec<Part> {
    let mut parts = vec![
        Part::number("RSA d", d),
        Part::number("RSA p", p),
        Part::number("RSA q", q),
        Part::number("RSA inverse of a prime", inverse),
    ];
    for (name, prime) in [("RSA d mod p-1", p), ("RSA d mod q-1", q)] {
        // The prime is odd: one less only clears its last bit.
        let mut less = Zeroizing::new(prime.to_vec());
        if let Some(last) = less.last_mut() {
            *last &= !1;
        }
        parts.push(Part::number(name, &remainder(d, &less)));
    }
    parts
}

/// The fingerprint of a public key's numbers.
pub(super) fn fingerprint(n: &[u8], e: &[u8]) -> Option<String> {
    let number = |bytes| Mpint::from_positive_bytes(bytes).ok();
    let key = RsaPublicKey {
        e: number(e)?,
        n: number(n)?,
    };
    let key = KeyData::from(key);
    Some(key.fingerprint(HashAlg::Sha256).to_string())
}

/// `number` modulo `modulus`, bit by bit, most significant byte first. Slow, once a key, and nothing of
/// it is left behind, which libraries for large numbers do not promise of their intermediate results.
fn remainder(number: &[u8], modulus: &[u8]) -> Zeroizing<Vec<u8>> {
    let len = modulus.len() + 1;
    let mut rest = Zeroizing::new(vec![0u8; len]);
    if modulus.iter().all(|&byte| byte == 0) {
        return rest;
    }
    let mut padded = Zeroizing::new(vec![0u8]);
    padded.extend_from_slice(modulus);
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                (*digit, carry) = (*digit << 1 | carry, *digit >> 7);
            }
            if *rest >= *padded {
                let mut borrow = false;
                for (digit, less) in rest.iter_mut().rev().zip(padded.iter().rev()) {
                    let (difference, under) = digit.overflowing_sub(*less);
                    let (difference, more) = difference.overflowing_sub(u8::from(borrow));
                    (*digit, borrow) = (difference, under || more);
                }
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::remainder;

    #[test]
    fn remainders() {
        let number = 0x0123_4567_89ab_cdef_0011_2233_4455_6677_u128;
        for modulus in [
            1,
            2,
            255,
            256,
            0xffff_ffff_u128,
            0xfedc_ba98_7654_3210,
            number,
            u128::MAX,
        ] {
            let bytes: Vec<u8> = modulus
                .to_be_bytes()
                .into_iter()
                .skip_while(|&b| b == 0)
                .collect();
            let rest = remainder(&number.to_be_bytes(), &bytes);
            let value = rest
                .iter()
                .fold(0, |value, &byte| value << 8 | u128::from(byte));
            assert_eq!(value, number % modulus, "{modulus:#x}");
        }
        assert!(remainder(&[1, 2], &[]).iter().all(|&byte| byte == 0));
    }
}
