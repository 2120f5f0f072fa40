//! The tables as the systems of a telecom company export them: CSV in GBK with Chinese column names, numbered ids with
//! leading zeros, dates in two spellings, amounts with separators, 是 and 否, and some rows that are spoilt.
//!
//! Spoilt are about three rows in a thousand of users and of interactions, and one in a hundred of items: half of them lack
//! an id, the others repeat a row (a user perhaps with the amount spelt in another way). The interactions of users and
//! items without an id name the id that the row has lost.

use crate::catalogue::cents;
use crate::choice::Choices;
use crate::columns::NULL;
use crate::error::{SynthError, io_error};
use crate::population::{CHUNK, Users};
use crate::random::{Random, Stream};
use crate::tables::{Rows, World};
use encoding_rs::GBK;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use twotower_artifacts::publish::Staged;
use twotower_artifacts::{Moment, TickUnit};

/// The share of rows of users and of interactions that lack an id, and the share that stands twice.
const SPOILT: f64 = 0.0015;
/// Items are few: of as many as this, one lacks its id and one stands twice, at the numbers below.
const SPOILT_ITEMS: usize = 200;
/// The one that lacks its id.
const WITHOUT_ID: usize = 57;
/// The one that stands twice.
const TWICE: usize = 73;
/// The day of the export, 2025-01-01, as a day since 1970.
const TODAY: i64 = 20_089;
/// Days in which items were put on sale.
const ON_SALE: u32 = 1500;

const USER_COLUMNS: &str =
    "用户编号,性别,年龄,城市,营业区,渠道,套餐编码,终端品牌,入网日期,是否5G,是否融合,年消费,月流量GB\r\n";
const ITEM_COLUMNS: &str = "产品编号,产品名称,类别,子类,供应商,月费,合约月数,上架日期\r\n";
const INTERACTION_COLUMNS: &str = "用户编号,产品编号,订购时间,金额\r\n";

const GENDERS: [&str; 3] = ["男", "女", "未知"];
const CITIES: [&str; 34] = [
    "北京",
    "天津",
    "石家庄",
    "太原",
    "呼和浩特",
    "沈阳",
    "长春",
    "哈尔滨",
    "上海",
    "南京",
    "杭州",
    "合肥",
    "福州",
    "南昌",
    "济南",
    "郑州",
    "武汉",
    "长沙",
    "广州",
    "南宁",
    "海口",
    "重庆",
    "成都",
    "贵阳",
    "昆明",
    "拉萨",
    "西安",
    "兰州",
    "西宁",
    "银川",
    "乌鲁木齐",
    "深圳",
    "大连",
    "青岛",
];
const CATEGORIES: [&str; 12] = [
    "5G套餐",
    "流量包",
    "语音包",
    "宽带",
    "电视",
    "国际漫游",
    "云盘",
    "视频会员",
    "音乐会员",
    "终端合约",
    "物联网卡",
    "安防",
];
const AUDIENCES: [&str; 10] = ["校园", "亲情", "商旅", "银发", "青春", "尊享", "全家", "夜间", "假日", "定向"];
const KINDS: [&str; 8] = ["版", "卡", "礼包", "加油包", "月包", "季包", "年包", "体验包"];

/// A CSV file in GBK being written, which has its name once it is complete.
struct TextFile {
    staged: Staged,
    bytes: u64,
}

impl TextFile {
    fn create(path: &Path, header: &str) -> Result<Self, SynthError> {
        let mut file = Self { staged: Staged::create(path)?, bytes: 0 };
        file.write(header)?;
        Ok(file)
    }

    fn write(&mut self, text: &str) -> Result<(), SynthError> {
        let (encoded, _, _) = GBK.encode(text);
        self.staged.write_all(&encoded).map_err(io_error("write", self.staged.path()))?;
        self.bytes += encoded.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<u64, SynthError> {
        self.staged.commit()?;
        Ok(self.bytes)
    }
}

/// The two files of one part.
pub(crate) struct ExportedPart {
    users: TextFile,
    interactions: TextFile,
}

fn user_id(number: u64) -> String {
    format!("{number:011}")
}

fn item_id(number: u32) -> String {
    format!("{number:06}")
}

/// What a row says where a code is known, and nothing where it is null.
fn known(code: i32, text: impl FnOnce(usize) -> String) -> String {
    if code == NULL { String::new() } else { text(code as usize) }
}

/// A whole number with a separator between thousands.
fn separated(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", separated(number / 1000), number % 1000),
    }
}

/// An amount in one of the ways in which the systems write it: `1,234.50`, or `￥1,234.50`. Commas need quotes.
fn amount(value: f64, random: &mut Random) -> String {
    let hundredths = (value * 100.0).round() as u64;
    let sign = if random.chance(0.2) { "￥" } else { "" };
    let text = format!("{sign}{}.{:02}", separated(hundredths / 100), hundredths % 100);
    if text.contains(',') { format!("\"{text}\"") } else { text }
}

/// A time in seconds since 1970 as one half of the systems writes it, `2019-03-07 09:05:00`, or as the other half does,
/// `2019/3/7 9:05:00`; or the date alone.
fn time(seconds: i64, with_hour: bool, random: &mut Random) -> String {
    let text = Moment::at(seconds, TickUnit::Second).map_or_else(String::new, |moment| moment.to_string());
    let (date, hour) = text.trim_end_matches('Z').split_once('T').unwrap_or((&text, ""));
    let (date, hour) = if random.chance(0.5) {
        let unpadded: Vec<&str> = date.split('-').map(|part| part.trim_start_matches('0')).collect();
        let hour = hour.strip_prefix('0').unwrap_or(hour);
        (unpadded.join("/"), hour)
    } else {
        (date.to_string(), hour)
    };
    if with_hour { format!("{date} {hour}") } else { date }
}

fn day(day: i64, random: &mut Random) -> String {
    time(86_400 * day, false, random)
}

/// Writes the table of items; returns its rows and bytes.
pub(crate) fn write_items(world: &World, path: &Path) -> Result<(u64, u64), SynthError> {
    let catalogue = &world.catalogue;
    let mut random = Random::new(world.seed, Stream::Exported(0), 0);
    let mut file = TextFile::create(path, ITEM_COLUMNS)?;
    let mut text = String::new();
    let mut rows = 0;
    for item in 0..catalogue.items {
        let [category, sub_category, vendor, ..] = catalogue.codes.each_ref().map(|codes| codes[item]);
        let price = catalogue.prices[item];
        let category = known(category, |code| CATEGORIES[code].to_string());
        let kind = |code: usize| format!("{}{}", AUDIENCES[code % 10], KINDS[code / 10]);
        let sub_category = known(sub_category, kind);
        let vendor = known(vendor, |code| format!("供应商{:02}", code + 1));
        let months = catalogue.months[item];
        let since = TODAY - 1 - i64::from(random.below(ON_SALE));
        let id = if item % SPOILT_ITEMS == WITHOUT_ID { String::new() } else { item_id(item as u32) };
        let line = format!(
            "{id},{category}{sub_category} {price:.0}元,{category},{sub_category},{vendor},{},{months},{}\r\n",
            amount(price, &mut random),
            day(since, &mut random)
        );
        for _ in 0..1 + u64::from(item % SPOILT_ITEMS == TWICE) {
            text.push_str(&line);
            rows += 1;
        }
        if text.len() > 1 << 20 {
            file.write(&text)?;
            text.clear();
        }
    }
    file.write(&text)?;
    Ok((rows, file.finish()?))
}

impl ExportedPart {
    pub fn create(users: &Path, interactions: &Path) -> Result<Self, SynthError> {
        let users = TextFile::create(users, USER_COLUMNS)?;
        Ok(Self { users, interactions: TextFile::create(interactions, INTERACTION_COLUMNS)? })
    }

    /// Appends a chunk of users with the interactions that they chose.
    pub fn write(&mut self, world: &World, chunk: u64, users: &Users, choices: &Choices) -> Result<Rows, SynthError> {
        let (user_rows, users) = user_rows(world, chunk, users);
        self.users.write(&users)?;
        let (interaction_rows, interactions) = interaction_rows(world, chunk, choices);
        self.interactions.write(&interactions)?;
        Ok(Rows { users: user_rows, interactions: interaction_rows })
    }

    /// Publishes the files and returns their size in bytes.
    pub fn finish(self) -> Result<u64, SynthError> {
        Ok(self.users.finish()? + self.interactions.finish()?)
    }
}

/// The rows of a chunk of users, and how many they are. Those that stand twice follow at the end.
fn user_rows(world: &World, chunk: u64, users: &Users) -> (u64, String) {
    let mut random = Random::new(world.seed, Stream::Exported(1), chunk);
    let [gender, age, channel, brand, district, plan, ..] = users.codes.each_ref();
    let mut text = String::new();
    let mut again = String::new();
    let mut rows = 0;
    for row in 0..users.arpu.len() {
        let id = if random.chance(SPOILT) { String::new() } else { user_id(chunk * CHUNK + row as u64) };
        let features = [
            known(gender[row], |code| GENDERS[code].to_string()),
            known(age[row], |code| (16 + 7 * code as u32 + random.below(7)).to_string()),
            known(district[row], |code| CITIES[code % CITIES.len()].to_string()),
            known(district[row], |code| format!("{}{}区", CITIES[code % CITIES.len()], code / CITIES.len() + 1)),
            known(channel[row], |code| format!("渠道{:02}", code + 1)),
            known(plan[row], |code| format!("{:05}", code + 1)),
            known(brand[row], |code| format!("品牌{}", code + 1)),
            known(users.tenure[row], |months| {
                day(TODAY - 30 * months as i64 - i64::from(random.below(30)), &mut random)
            }),
        ]
        .join(",");
        let [is_5g, is_family] = users.switches.each_ref().map(|codes| match codes[row] {
            0..4 => "是",
            4..8 => "否",
            _ => "",
        });
        let spent = |random: &mut Random| match users.arpu_known[row] {
            true => amount(cents(12.0 * users.arpu[row]), random),
            false => String::new(),
        };
        let gigabytes = users.data_gb[row];
        let mut line = |text: &mut String, random: &mut Random| {
            rows += 1;
            let _ = write!(text, "{id},{features},{is_5g},{is_family},{},{gigabytes:.3}\r\n", spent(random));
        };
        line(&mut text, &mut random);
        if random.chance(SPOILT) {
            line(&mut again, &mut random);
        }
    }
    text.push_str(&again);
    (rows, text)
}

/// The rows of the interactions of a chunk, and how many they are.
fn interaction_rows(world: &World, chunk: u64, choices: &Choices) -> (u64, String) {
    let mut random = Random::new(world.seed, Stream::Exported(2), chunk);
    let mut text = String::new();
    let mut rows = 0;
    for ((user, item), seconds) in choices.users.iter().zip(&choices.items).zip(&choices.times) {
        let lacks = random.chance(SPOILT).then(|| random.chance(0.5));
        let user = if lacks == Some(true) { String::new() } else { user_id(chunk * CHUNK + u64::from(*user)) };
        let price = amount(world.catalogue.prices[*item as usize], &mut random);
        let item = if lacks == Some(false) { String::new() } else { item_id(*item) };
        let line = format!("{user},{item},{},{price}\r\n", time(*seconds, true, &mut random));
        for _ in 0..1 + u64::from(random.chance(SPOILT)) {
            text.push_str(&line);
            rows += 1;
        }
    }
    (rows, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_written_in_the_stated_ways() {
        let mut random = Random::new(1, Stream::Exported(9), 0);
        let amounts: std::collections::BTreeSet<_> = (0..99).map(|_| amount(1_234_567.5, &mut random)).collect();
        assert_eq!(amounts.into_iter().collect::<Vec<_>>(), ["\"1,234,567.50\"", "\"￥1,234,567.50\""]);
        let times: std::collections::BTreeSet<_> = (0..99).map(|_| time(1_551_949_505, true, &mut random)).collect();
        assert_eq!(times.into_iter().collect::<Vec<_>>(), ["2019-03-07 09:05:05", "2019/3/7 9:05:05"]);
        let days: std::collections::BTreeSet<_> = (0..99).map(|_| day(17_962, &mut random)).collect();
        assert_eq!(days.into_iter().collect::<Vec<_>>(), ["2019-03-07", "2019/3/7"]);
        assert_eq!(day(TODAY, &mut random).replace('/', "-").replace("-1", "-01").replace("-001", "-01"), "2025-01-01");
    }

    #[test]
    fn all_labels_can_be_written_in_gbk() {
        let mut all = [USER_COLUMNS, ITEM_COLUMNS, INTERACTION_COLUMNS].concat();
        all.push_str("供应商渠道品牌区元￥是否");
        for label in [&GENDERS[..], &CITIES, &CATEGORIES, &AUDIENCES, &KINDS].into_iter().flatten() {
            all.push_str(label);
        }
        let (bytes, _, is_replaced) = GBK.encode(&all);
        assert!(!is_replaced && GBK.decode(&bytes).0 == all);
    }
}
