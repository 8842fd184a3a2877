//! Writing ISO/IEC 14496-12 boxes into one buffer.

pub(super) struct Boxes(pub(super) Vec<u8>);

impl Boxes {
    pub(super) fn with_capacity(bytes: usize) -> Boxes {
        Boxes(Vec::with_capacity(bytes))
    }

    /// A box whose size is filled in once `body` has written it.
    pub(super) fn nest(&mut self, kind: &[u8; 4], body: impl FnOnce(&mut Boxes)) {
        let start = self.0.len();
        self.u32(0).bytes(kind);
        body(self);
        let size = (self.0.len() - start) as u32;
        self.put_u32(start, size);
    }

    /// A `FullBox`.
    pub(super) fn full(&mut self, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Boxes)) {
        self.nest(kind, |b| {
            b.u32(u32::from(version) << 24 | flags);
            body(b);
        });
    }

    /// An MPEG-4 descriptor (ISO/IEC 14496-1, 8.3.3) with a length of up to 127 bytes, or two length bytes beyond.
    pub(super) fn descriptor(&mut self, tag: u8, body: impl FnOnce(&mut Boxes)) {
        let mut inner = Boxes(Vec::new());
        body(&mut inner);
        let length = inner.0.len();
        self.u8(tag);
        if length > 0x7f {
            self.u8(0x80 | (length >> 7) as u8);
        }
        self.u8((length & 0x7f) as u8).bytes(&inner.0);
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Boxes {
        self.0.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Boxes {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Boxes {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Boxes {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Boxes {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Boxes {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Overwrites four bytes that were written as a place-holder.
    pub(super) fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}
