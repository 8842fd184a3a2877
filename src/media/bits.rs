//! Reading bits of a parameter set: emulation prevention removed, Exp-Golomb codes bounded, no read past the end.

/// Parameter sets are a few dozen bytes; what is longer than this is an attack or damage.
const MAX_BYTES: usize = 4096;

/// The bits of one raw byte sequence payload (H.264 7.3.1, H.265 7.3.1.1). Every error names what was being read.
pub(super) struct Bits {
    rbsp: Vec<u8>,
    at: usize,
}

pub(super) type Read<T> = Result<T, String>;

impl Bits {
    /// `payload` follows the NAL unit header.
    pub fn new(payload: &[u8]) -> Read<Bits> {
        if payload.len() > MAX_BYTES {
            return Err(format!("{} bytes long, more than {MAX_BYTES}", payload.len()));
        }
        let mut rbsp = Vec::with_capacity(payload.len());
        let mut zeros = 0;
        for &byte in payload {
            if zeros >= 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            rbsp.push(byte);
        }
        Ok(Bits { rbsp, at: 0 })
    }

    pub fn flag(&mut self, what: &str) -> Read<bool> {
        let byte = self.rbsp.get(self.at / 8).ok_or_else(|| format!("ends before {what}"))?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// `count` bits, at most 64, most significant first.
    pub fn bits(&mut self, count: u32, what: &str) -> Read<u64> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u64::from(self.flag(what)?);
        }
        Ok(value)
    }

    pub fn byte(&mut self, what: &str) -> Read<u8> {
        Ok(self.bits(8, what)? as u8)
    }

    pub fn skip(&mut self, count: usize, what: &str) -> Read<()> {
        self.at += count;
        if self.at > self.rbsp.len() * 8 { Err(format!("ends before {what}")) } else { Ok(()) }
    }

    /// ue(v), refused above `max`.
    pub fn ue(&mut self, max: u32, what: &str) -> Read<u32> {
        let mut zeros = 0;
        while !self.flag(what)? {
            zeros += 1;
            if zeros > 32 {
                return Err(format!("{what} is no Exp-Golomb code"));
            }
        }
        let value = (1u64 << zeros) - 1 + self.bits(zeros, what)?;
        u32::try_from(value)
            .ok()
            .filter(|&value| value <= max)
            .ok_or_else(|| format!("{what} is {value}, above {max}"))
    }

    /// se(v).
    pub fn se(&mut self, what: &str) -> Read<i64> {
        let code = i64::from(self.ue(u32::MAX, what)?);
        Ok(if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) })
    }
}

/// Picture size after cropping; `max` refuses what no camera sends and no decoder should be asked for.
pub(super) fn cropped(coded: u64, crop_units: u64, unit: u64, max: u32, what: &str) -> Read<u32> {
    let size = coded.saturating_sub(crop_units * unit);
    if size == 0 || size > u64::from(max) {
        return Err(format!("{what} of {size} pixels ({coded} before cropping), not 1 to {max}"));
    }
    Ok(size as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_of_the_standard() {
        // H.264 table 9-2: 1, 010, 011, 00100, 00101, 00110 are 0 to 5.
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1001_1000]).unwrap();
        for expected in 0..6 {
            assert_eq!(bits.ue(9, "x"), Ok(expected));
        }
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1001_1000]).unwrap();
        for expected in [0, 1, -1, 2, -2, 3] {
            assert_eq!(bits.se("x"), Ok(expected));
        }
    }

    #[test]
    fn codes_are_bounded() {
        assert!(Bits::new(&[0; 16]).unwrap().ue(9, "x").unwrap_err().contains("no Exp-Golomb"));
        assert!(Bits::new(&[0b0010_0000]).unwrap().ue(2, "x").unwrap_err().contains("x is 3, above 2"));
        assert!(Bits::new(&[0x80]).unwrap().bits(9, "x").is_err());
        assert!(Bits::new(&vec![0; MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn emulation_prevention_is_removed() {
        let mut bits = Bits::new(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3]).unwrap();
        assert_eq!(bits.bits(56, "x"), Ok(0x0000_0001_0000_0000));
        assert!(bits.flag("x").is_err());
    }
}
