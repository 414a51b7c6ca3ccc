//! SHA-256, because this program has no dependencies; checked against known values.

/// SHA-256 in lower-case hex; here because this program has no dependencies.
pub fn sha256_hex(data: &[u8]) -> String {
    let (k, mut h) = constants();
    let mut message = data.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut w = [0_u32; 64];
        for (i, four) in block.chunks_exact(4).enumerate() {
            w[i] = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
        }
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
        }
        let mut v = h;
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(k[i]).wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[0] = t1.wrapping_add(s0.wrapping_add(majority));
            v[4] = v[4].wrapping_add(t1);
        }
        for (sum, word) in h.iter_mut().zip(v) {
            *sum = sum.wrapping_add(word);
        }
    }
    h.iter().map(|word| format!("{word:08x}")).collect()
}

/// Fractions of the cube and square roots of the first primes, which is how SHA-256 defines its constants.
fn constants() -> ([u32; 64], [u32; 8]) {
    let mut primes = Vec::new();
    let mut n = 2_u128;
    while primes.len() < 64 {
        if primes.iter().all(|p| !n.is_multiple_of(*p)) {
            primes.push(n);
        }
        n += 1;
    }
    let root = |value: u128, power: u32| -> u128 {
        let (mut low, mut high) = (0_u128, 1_u128 << 42);
        while low + 1 < high {
            let mid = (low + high) / 2;
            if mid.checked_pow(power).is_some_and(|p| p <= value) { low = mid } else { high = mid }
        }
        low
    };
    let mut k = [0; 64];
    let mut h = [0; 8];
    for (i, prime) in primes.iter().enumerate() {
        k[i] = root(prime << 96, 3) as u32;
        if i < 8 {
            h[i] = root(prime << 64, 2) as u32;
        }
    }
    (k, h)
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
