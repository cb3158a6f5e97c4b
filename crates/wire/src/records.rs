//! `TFRecord` files: records one after another, each with checksums of its length and of its bytes.
//!
//! ```text
//! length: u64 │ its checksum: u32 │ so many bytes │ their checksum: u32      (all numbers little-endian)
//! ```

use std::io::{self, Read, Write};

use servable_core::{Code, Status};

/// The length and its checksum.
const HEADER_BYTES: u64 = 12;
const CHECKSUM_BYTES: u64 = 4;

/// Messages of protobuf, which records are here, are no longer than this.
const LONGEST_RECORD: u64 = i32::MAX as u64;

/// CRC-32C, turned and shifted as the format wants it: a record may hold records, whose checksums are data then.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The records of a source, in order; none after an error. As with TensorFlow, what is too short to be a header at the
/// end of the source is no record and no error either.
///
/// `DATA_LOSS` for what is no record, or not the one that was written. No room is made for more than the source has.
pub struct RecordReader<R> {
    source: R,
    /// Where in the source the next record begins.
    at: u64,
    length: u64,
}

impl<R: Read> RecordReader<R> {
    /// `length` says how many bytes the source has.
    pub fn new(source: R, length: u64) -> Self {
        Self { source, at: 0, length }
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let left = self.length - self.at;
        if left < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = [0; 8];
        self.fill(&mut header)?;
        self.check(&header)?;
        let length = u64::from_le_bytes(header);
        if length > LONGEST_RECORD || length + CHECKSUM_BYTES > left - HEADER_BYTES {
            return Err(self.lost(&format!("truncated record of {length} bytes")));
        }
        let mut record = vec![0; length as usize];
        self.fill(&mut record)?;
        self.check(&record)?;
        self.at += HEADER_BYTES + length + CHECKSUM_BYTES;
        Ok(Some(record))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Status> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.lost("truncated record"),
            _ => Status::new(Code::Unknown, format!("the record at byte {} cannot be read: {error}", self.at)),
        })
    }

    /// Reads the checksum of these bytes, which comes next.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let mut expected = [0; 4];
        self.fill(&mut expected)?;
        if u32::from_le_bytes(expected) == checksum(bytes) { Ok(()) } else { Err(self.lost("corrupted record")) }
    }

    fn lost(&self, what: &str) -> Status {
        Status::new(Code::DataLoss, format!("{what} at {}", self.at))
    }
}

impl<R: Read> Iterator for RecordReader<R> {
    type Item = Result<Vec<u8>, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let outcome = self.read();
        if outcome.is_err() {
            self.at = self.length;
        }
        outcome.transpose()
    }
}

/// Writes one record.
pub fn write_record(record: &[u8], out: &mut impl Write) -> io::Result<()> {
    let length = (record.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&checksum(&length).to_le_bytes())?;
    out.write_all(record)?;
    out.write_all(&checksum(record).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        for record in records {
            write_record(record, &mut file).expect("memory takes all");
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<Vec<u8>>, Option<Status>) {
        let mut records = Vec::new();
        for record in RecordReader::new(file, file.len() as u64) {
            match record {
                Ok(record) => records.push(record),
                Err(status) => return (records, Some(status)),
            }
        }
        (records, None)
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let long = vec![7; 1 << 16];
        let files: [&[&[u8]]; 4] = [&[], &[b""], &[b"a", b"", b"bc"], &[&long, b"x"]];
        for records in files {
            let (found, status) = read(&written(records));
            assert_eq!((found, status), (records.iter().map(|record| record.to_vec()).collect(), None));
        }
    }

    #[test]
    fn bytes_are_those_that_tensorflow_writes() {
        // What tf.io.TFRecordWriter makes of `abc`.
        assert_eq!(written(&[b"abc"]), b"\x03\0\0\0\0\0\0\0\xb0\x99I\x0eabcnW\xf1!");
    }

    #[test]
    fn less_than_a_header_ends_the_file() {
        assert_eq!(read(b"no records"), (vec![], None));
        let mut file = written(&[b"a"]);
        file.extend_from_slice(b"no header");
        assert_eq!(read(&file), (vec![b"a".to_vec()], None));
    }

    #[test]
    fn a_length_that_the_file_does_not_have_takes_no_room() {
        for length in [1_u64, 1 << 31, 1 << 40, u64::MAX] {
            let mut file = length.to_le_bytes().to_vec();
            file.extend_from_slice(&checksum(&length.to_le_bytes()).to_le_bytes());
            let (records, status) = read(&file);
            let status = status.expect("there is no such record");
            assert_eq!((records.len(), status.code), (0, Code::DataLoss), "{length}");
            assert!(status.message.ends_with(" at 0"), "{status}");
        }
        let file = b"hello, this is a text and no file of records";
        assert_eq!(read(file).1, Some(Status::new(Code::DataLoss, "corrupted record at 0")));
    }

    #[test]
    fn a_source_that_ends_too_early_is_noticed() {
        let file = written(&[b"abc"]);
        let longer = RecordReader::new(&file[..14], file.len() as u64).next().expect("a header is there");
        assert_eq!(longer, Err(Status::new(Code::DataLoss, "truncated record at 0")));
    }

    #[test]
    fn whatever_happens_to_a_file_its_records_are_true_or_an_error() {
        let records: [&[u8]; 4] = [b"first", b"", &[0; 300], b"last"];
        let file = written(&records);
        let check = |damaged: &[u8], what: &str| {
            let (found, status) = read(damaged);
            assert!(found.iter().zip(&records).all(|(found, record)| found == record), "{what}");
            assert!(found.iter().all(|record| record.capacity() <= damaged.len()), "{what}");
            assert!(status.is_none_or(|status| status.code == Code::DataLoss), "{what}");
            found.len()
        };
        for length in 0..file.len() {
            assert!(check(&file[..length], &format!("cut at {length}")) < records.len());
        }
        for bit in 0..8 * file.len() {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&damaged, &format!("bit {bit} flipped")) < records.len());
        }
        // Bytes that never were a file: xorshift, so that a failure can be repeated.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2000 {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .take(64)
            .collect();
            assert_eq!(check(&noise, "noise"), 0);
        }
    }
}
