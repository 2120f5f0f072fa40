//! Character encodings of text files: by name, and told by what fits the bytes.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{
    BIG5, DecoderResult, EUC_JP, EUC_KR, GB18030, GBK, REPLACEMENT, SHIFT_JIS, UTF_16BE, UTF_16LE, WINDOWS_1252,
    X_USER_DEFINED,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Character encoding of text files. It is written by its name, such as `utf-8`, `gbk` or `windows-1251`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark.
    #[default]
    Utf8,
    /// ISO-8859-1: every byte is the character of that number.
    Latin1,
    /// UTF-16 in the byte order that the file's mark says.
    Utf16,
    /// Any other that the Encoding Standard of the WHATWG has, by any of its names.
    Named(&'static encoding_rs::Encoding),
}

/// Names of code pages that the Encoding Standard does not list.
const CODE_PAGES: [(&str, &encoding_rs::Encoding); 4] =
    [("cp936", GB18030), ("cp932", SHIFT_JIS), ("cp949", EUC_KR), ("cp950", BIG5)];

/// What is said to somebody who named none that there is.
const NAMES: &str = "utf-8, utf-16, utf-16le, utf-16be, gbk, gb18030, big5, shift_jis, euc-jp, euc-kr, latin-1, windows-1250 to windows-1258, koi8-r, or another name of the Encoding Standard";

impl Encoding {
    /// The encoding of a name, whatever its letter case.
    ///
    /// # Errors
    /// The name, and those that there are.
    pub fn of_name(name: &str) -> Result<Self, String> {
        let folded = name.trim().to_ascii_lowercase();
        match folded.as_str() {
            "utf-8" | "utf8" | "ascii" | "us-ascii" => return Ok(Encoding::Utf8),
            "latin-1" | "latin1" | "iso-8859-1" => return Ok(Encoding::Latin1),
            "utf-16" | "utf16" => return Ok(Encoding::Utf16),
            _ => {}
        }
        let page = CODE_PAGES.iter().find(|(page, _)| *page == folded).map(|(_, encoding)| *encoding);
        let found = page.or_else(|| encoding_rs::Encoding::for_label(folded.as_bytes()));
        let found = found.filter(|found| *found != REPLACEMENT && *found != X_USER_DEFINED);
        found.map(Encoding::Named).ok_or_else(|| format!("no encoding is called \"{name}\"; expected {NAMES}"))
    }

    /// Its name, as the setting `encoding` writes it.
    pub fn name(self) -> String {
        match self {
            Encoding::Utf8 => "utf-8".to_string(),
            Encoding::Latin1 => "latin-1".to_string(),
            Encoding::Utf16 => "utf-16".to_string(),
            Encoding::Named(encoding) => encoding.name().to_ascii_lowercase(),
        }
    }

    /// The encoding that bytes fit, from the beginning of a file or of a row of one; none for what looks like no text.
    pub fn fitting(bytes: &[u8]) -> Option<Self> {
        match Mark::of(bytes) {
            Some(Mark::Utf8) => return Some(Encoding::Utf8),
            Some(Mark::Utf16(_)) => return Some(Encoding::Utf16),
            Some(Mark::Utf32) => return None,
            None => {}
        }
        if bytes.contains(&0) {
            return fitting_utf_16(bytes);
        }
        if is_mostly_utf_8(bytes) {
            return Some(Encoding::Utf8);
        }
        let controls = bytes.iter().filter(|b| **b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)).count();
        if controls * 100 > bytes.len() {
            return None;
        }
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(bytes, false);
        let likely = detector.guess(None, Utf8Detection::Deny);
        // A few Chinese words, such as a header alone, tell the detector too little.
        let likely = if likely.is_single_byte() && is_common_chinese(bytes) { GBK } else { likely };
        let others = [GB18030, BIG5, SHIFT_JIS, EUC_KR, EUC_JP, WINDOWS_1252];
        std::iter::once(likely).chain(others).find(|encoding| decodes(encoding, bytes)).map(Encoding::Named)
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Encoding::Utf8 => f.write_str("UTF-8"),
            Encoding::Latin1 => f.write_str("Latin-1"),
            Encoding::Utf16 => f.write_str("UTF-16"),
            Encoding::Named(encoding) => f.write_str(encoding.name()),
        }
    }
}

impl Serialize for Encoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Encoding::of_name(&name).map_err(|reason| D::Error::custom(format!("`encoding`: {reason}")))
    }
}

/// A byte order mark, which says at the beginning of a file how it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Utf8,
    /// In one of its two byte orders.
    Utf16(&'static encoding_rs::Encoding),
    Utf32,
}

impl Mark {
    /// The mark that bytes begin with.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Some(Mark::Utf32),
            [0xFF, 0xFE, ..] => Some(Mark::Utf16(UTF_16LE)),
            [0xFE, 0xFF, ..] => Some(Mark::Utf16(UTF_16BE)),
            [0xEF, 0xBB, 0xBF, ..] => Some(Mark::Utf8),
            _ => None,
        }
    }

    /// Its bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            Mark::Utf8 => 3,
            Mark::Utf16(_) => 2,
            Mark::Utf32 => 4,
        }
    }
}

/// Whether bytes are UTF-8, but for a few of them or a character cut at their end. Characters of several bytes seldom
/// come about by chance.
fn is_mostly_utf_8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    let is_cut = std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none());
    bad == 0 || (is_cut && bad == 1) || good > 4 * bad
}

/// Whether all that is no ASCII are symbols and the 3,755 most common characters of GB 2312, as in GBK. Words of
/// single-byte encodings have letters that would be no such character, or letters alone between ASCII.
fn is_common_chinese(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut characters = 0;
    loop {
        rest = match rest {
            // The last may be cut.
            [] | [0x80..=0xFF] => return characters > 1,
            [0..=0x7F, rest @ ..] => rest,
            [0xA1..=0xA3 | 0xB0..=0xD7, 0xA1..=0xFE, rest @ ..] => {
                characters += 1;
                rest
            }
            _ => return false,
        };
    }
}

/// Text of two bytes a character has its zeros, those of digits, separators and line breaks, nearly all on one side.
fn fitting_utf_16(bytes: &[u8]) -> Option<Encoding> {
    let zeros = |first: usize| bytes.iter().skip(first).step_by(2).filter(|b| **b == 0).count();
    let (high_first, low_first) = (zeros(0), zeros(1));
    let encoding = match () {
        () if low_first > 4 * high_first => UTF_16LE,
        () if high_first > 4 * low_first => UTF_16BE,
        () => return None,
    };
    decodes(encoding, bytes).then_some(Encoding::Named(encoding))
}

/// Whether bytes, but for a character cut at their end, are characters of an encoding.
fn decodes(encoding: &'static encoding_rs::Encoding, bytes: &[u8]) -> bool {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut scratch = [0; 4096];
    let mut rest = bytes;
    loop {
        let (result, read, _) = decoder.decode_to_utf8_without_replacement(rest, &mut scratch, false);
        rest = &rest[read..];
        match result {
            DecoderResult::InputEmpty => return true,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Encoding {
        Encoding::of_name(name).unwrap()
    }

    fn bytes(name: &str, text: &str) -> Vec<u8> {
        let Encoding::Named(encoding) = named(name) else { panic!("{name} is decoded here") };
        let (bytes, _, lost) = encoding.encode(text);
        assert!(!lost, "{name} has all characters of {text}");
        bytes.into_owned()
    }

    #[test]
    fn encodings_are_known_by_many_names_and_written_by_one() {
        for (given, name) in [
            ("UTF-8", "utf-8"),
            ("latin1", "latin-1"),
            ("utf-16", "utf-16"),
            ("UTF-16LE", "utf-16le"),
            ("GBK", "gbk"),
            ("gb2312", "gbk"),
            ("cp936", "gb18030"),
            ("Big5", "big5"),
            ("shift-jis", "shift_jis"),
            ("sjis", "shift_jis"),
            ("euc-kr", "euc-kr"),
            ("cp1251", "windows-1251"),
        ] {
            assert_eq!(named(given).name(), name, "{given}");
            let json = serde_json::to_value(named(given)).unwrap();
            assert_eq!(
                (json.as_str().unwrap(), serde_json::from_value::<Encoding>(json.clone()).unwrap().name()),
                (name, name.to_string())
            );
        }
        for unknown in ["utf-7", "gbkk", "", "replacement"] {
            let error = Encoding::of_name(unknown).unwrap_err();
            assert!(error.contains("gb18030") && error.contains(unknown), "{error}");
        }
    }

    #[test]
    fn what_fits_the_bytes_of_a_table_is_found() {
        let chinese = "user_id,城市,套餐\n1,广州,全球通无限畅享套餐\n2,深圳,动感地带校园卡\n3,佛山,神州行家园卡\n";
        for (name, text) in [
            ("gbk", chinese),
            ("big5", "編號,城市,方案\n1,臺北,無限上網方案\n2,高雄,學生優惠方案\n3,臺中,家庭方案\n"),
            ("shift_jis", "番号,都市,料金プラン\n1,東京,使い放題プラン\n2,大阪,学生割引のプラン\n"),
            ("euc-kr", "번호,도시,요금제\n1,서울,무제한 요금제입니다\n2,부산,학생 할인 요금제\n"),
            ("windows-1251", "номер,город,тариф\n1,Москва,Безлимитный тариф\n2,Казань,Студенческий тариф\n"),
            ("windows-1252", "id,titre\n1,L'été à la plage\n2,Château – forêt\n3,Le garçon français\n"),
        ] {
            let found = Encoding::fitting(&bytes(name, text)).unwrap();
            assert_eq!(found.name(), name);
            // A sample may be cut within a character.
            let cut = bytes(name, text);
            assert_eq!(Encoding::fitting(&cut[..cut.len() - 2]).unwrap().name(), name);
        }
        let le: Vec<u8> = chinese.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = chinese.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(Encoding::fitting(&le).unwrap().name(), "utf-16le");
        assert_eq!(Encoding::fitting(&be).unwrap().name(), "utf-16be");
        assert_eq!(Encoding::fitting(&[b"\xFF\xFE".as_slice(), &le].concat()), Some(Encoding::Utf16));
        // A header, and amounts with a sign.
        let few = format!("用户编号,产品编号,订购时间,金额\r\n{}", "0001,07,2025/3/7 9:05,￥9.00\r\n".repeat(99));
        assert_eq!(Encoding::fitting(&bytes("gbk", &few)).unwrap().name(), "gbk");
        assert!(is_common_chinese(&bytes("gbk", "城市")) && !is_common_chinese(b"city"));
        for (name, text) in [
            ("windows-1251", "имя,город\nАнна,МОСКВА\n"),
            ("ibm866", "имя,город\nАнна,МОСКВА\n"),
            ("windows-1252", "prénom,ville\nZoë,MÜNCHEN\n"),
        ] {
            assert!(!is_common_chinese(&bytes(name, text)), "{name}");
        }
        assert_eq!(Encoding::fitting(chinese.as_bytes()), Some(Encoding::Utf8));
        let one_bad = [chinese.as_bytes(), b"4,\xB9\xE3\xD6\xDD,\n"].concat();
        assert_eq!(Encoding::fitting(&one_bad), Some(Encoding::Utf8), "a row of another encoding is a bad row");
        assert_eq!(Encoding::fitting(&[0x01, 0x02, 0xFF, 0x80, 0x03, 0x04]), None);
        assert_eq!(Encoding::fitting(&[0, 0, 1, 0, 0, 0, 9, 9]), None);
    }
}
