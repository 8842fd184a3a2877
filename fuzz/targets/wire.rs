//! Both ends of the socket between the daemon and its worker.
//!
//! Input: which end reads and how; then bytes as they come, or a header without its length, a zero, and the blob.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liuta::vision::wire::{read_job, read_report, write_job, write_report};

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let bytes = if how & 2 == 0 { bytes.to_vec() } else { framed(bytes) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    if how & 1 == 0 {
        let mut from = bytes.as_slice();
        while let Ok(Some((job, blob))) = read_job(&mut from) {
            let mut sent = Vec::new();
            runtime
                .block_on(write_job(&mut sent, &job, &[blob.clone().into()]))
                .expect("what was read is sent");
            // A number past 32 bits is read as infinite, which JSON cannot say.
            if let Ok(again) = read_job(&mut sent.as_slice()) {
                assert_eq!(again, Some((job, blob)));
            }
        }
    } else {
        let mut from = bytes.as_slice();
        while let Ok(Some((report, jpeg))) = runtime.block_on(read_report(&mut from)) {
            let mut sent = Vec::new();
            write_report(&mut sent, &report, &jpeg).expect("what was read is sent");
            if let Ok(again) = runtime.block_on(read_report(&mut sent.as_slice())) {
                assert_eq!(again, Some((report, jpeg)));
            }
        }
    }
});

fn framed(bytes: &[u8]) -> Vec<u8> {
    let header = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let blob = bytes.get(header.len() + 1..).unwrap_or_default();
    [&(header.len() as u32).to_be_bytes(), header, blob].concat()
}
