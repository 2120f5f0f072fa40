//! What a report says, in each of its languages. A text without its translation does not compile.

use crate::config::Gate;
use crate::stages::gates::verdict::Ruling;
use serde::Serialize;

/// A language of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// As `lang` of HTML has it.
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh-CN",
        }
    }

    /// All texts.
    pub(super) fn words(self) -> &'static Words {
        match self {
            Self::En => &EN,
            Self::Zh => &ZH,
        }
    }

    /// What a gate is called.
    pub(super) fn gate(self, gate: Gate) -> &'static str {
        let (en, zh) = match gate {
            Gate::Rows => ("Users in the results", "结果中的用户"),
            Gate::Items => ("Items", "物品数"),
            Gate::History => ("Interactions", "交互记录"),
            Gate::Exclusions => ("Exclusions", "排除名单"),
            Gate::Unknown => ("Unknown values", "未知取值"),
            Gate::Missing => ("Missing values", "缺失取值"),
            Gate::Drift => ("Drift of distributions", "分布漂移"),
            Gate::Vectors => ("Vectors", "向量"),
            Gate::Index => ("Index recall", "索引召回率"),
            Gate::Lists => ("Variety of lists", "列表多样性"),
            Gate::Coverage => ("Coverage of the catalogue", "目录覆盖率"),
            Gate::Users => ("Users kept from the previous run", "与上次共有的用户"),
            Gate::Overlap => ("Lists kept from the previous run", "与上次列表的重合"),
            Gate::Metric => ("Evaluation metric", "评估指标"),
        };
        self.of(en, zh)
    }

    /// What a ruling is called.
    pub(super) fn ruling(self, ruling: Ruling) -> &'static str {
        let (en, zh) = match ruling {
            Ruling::Passed => ("passed", "通过"),
            Ruling::Failed => ("failed", "未通过"),
            Ruling::Accepted => ("accepted", "已人工接受"),
            Ruling::NotApplicable => ("not applicable", "不适用"),
            Ruling::Off => ("off", "已关闭"),
        };
        self.of(en, zh)
    }

    /// What a model of the metrics is called; that of a name that is not known is the name.
    pub(super) fn model(self, name: &str) -> String {
        let said = match name {
            "model" => self.of("model", "模型"),
            "popularity" => self.of("popularity", "热门"),
            "item_to_item" => self.of("item to item", "物品到物品"),
            "item_cf" => self.of("item CF", "物品协同过滤"),
            "ease" => "EASE",
            other => other,
        };
        said.to_string()
    }

    fn of(self, en: &'static str, zh: &'static str) -> &'static str {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }
}

/// Declares all texts of the page in both languages.
macro_rules! words {
    ($($key:ident: $en:literal, $zh:literal;)*) => {
        /// All texts of the page, by name.
        #[derive(Debug, Serialize)]
        pub(super) struct Words { $(pub(super) $key: &'static str,)* }
        const EN: Words = Words { $($key: $en,)* };
        const ZH: Words = Words { $($key: $zh,)* };
    };
}

words! {
    report: "Retrieval report", "召回报告";
    passed: "Passed", "通过";
    passed_text: "every gate that applied held its limits", "所有适用的检查都在限值内";
    accepted: "Accepted", "人工接受";
    accepted_text: "a gate failed, and the operator published all the same", "有检查未通过，运维人员已接受并发布";
    failed: "Refused", "被拦截";
    failed_text: "a gate refused this run, so it is not published", "有检查未通过，本次结果没有发布";
    unchecked: "Not checked", "未检查";
    unchecked_text: "the gates were not asked about this run", "尚未对本次运行做检查";
    verdict: "Verdict of the gates", "检查结论";
    gates_of: "gates passed of", "项通过，共";
    against_popularity: "Model against popularity", "模型与热门对比";
    popularity: "popularity", "热门";
    times_popularity: "times popularity, which has", "倍于热门，热门为";
    not_measured: "not measured", "未评估";
    users_served: "Users served", "覆盖用户";
    of_users_table: "of the users table", "的用户（用户表）";
    items_each: "items each at most", "个物品以内";
    time_of_night: "Time of the stages", "各阶段用时";
    stages_word: "stages", "个阶段";
    contents: "Contents", "目录";
    flow: "Rows through the stages", "各阶段的数据流";
    flow_text: "Seconds and rows as each stage has noted them; a stage of several shards has the sum of theirs.", "各阶段自己记录的秒数与行数；分片运行的阶段为各分片之和。";
    stage: "Stage", "阶段";
    seconds: "Seconds", "秒";
    rows: "Rows", "行数";
    rate: "Rows a second", "每秒行数";
    counted: "What was counted", "计数";
    warnings: "Warnings", "警告";
    shards: "shards", "个分片";
    data: "Data", "数据";
    data_text: "What the encoders met when users and items were embedded. Drift is the distance of Kolmogorov and Smirnov between the distributions of two runs: 0 is the same, 1 has nothing in common.", "用户与物品编码时遇到的取值。漂移为两次运行分布之间的 Kolmogorov–Smirnov 距离：0 为相同，1 为毫无共同之处。";
    compared_with: "Compared with run", "对比的运行";
    no_previous: "There is no run to compare with.", "没有可对比的运行。";
    feature: "Feature", "特征";
    distribution: "Distribution", "分布";
    values: "Values", "取值数";
    missing: "Missing", "缺失";
    unknown: "Unknown", "未知";
    drift: "Drift", "漂移";
    median: "Median", "中位数";
    users: "Users", "用户";
    items: "Items", "物品";
    training: "Training", "训练";
    loss: "Loss", "损失";
    best_epoch: "Best epoch", "最佳轮次";
    epoch: "Epoch", "轮次";
    validation: "Validation", "验证";
    no_validation: "No validation metric was kept.", "没有验证指标。";
    quality: "Quality beside simple methods", "与简单方法的对比";
    protocol: "Protocol", "评估方案";
    measured_on: "Users measured", "评估用户数";
    method: "Method", "方法";
    list_length: "length of the list, k", "列表长度 k";
    better_baseline: "A simple method is better than the model at", "简单方法优于模型的指标：";
    left_out: "Left out", "未计算";
    lists: "What users get", "用户得到的列表";
    lists_text: "From the sample of lists that recall keeps, and from the first lists of the results.", "取自召回保存的抽样列表，以及结果中最前面的列表。";
    sampled_lists: "Lists in the sample", "抽样列表数";
    distinct_lists: "Distinct lists", "不同的列表";
    catalogue: "Items in any sampled list", "抽样列表中出现的物品";
    of_eligible: "of the eligible", "占可召回物品";
    top_percent: "Places of the most listed 1% of items", "最常出现的 1% 物品所占位置";
    similarity: "Cosine similarity", "余弦相似度";
    similarity_text: "Cosine similarity of listed items: 1 is the same direction, 0 unrelated.", "列表中物品的余弦相似度：1 为同向，0 为无关。";
    pairs: "Listed items", "列表项";
    concentration: "Concentration of the lists", "列表的集中度";
    share_of_items: "share of eligible items, most listed first", "可召回物品占比（最常出现者在前）";
    share_of_places: "share of places", "位置占比";
    coverage: "Coverage", "覆盖率";
    popularity_bias: "Mean popularity of listed items", "列表物品的平均热度";
    popularity_text: "Of test users: the share of the catalogue that stands in any list, and the mean number of training events of listed items.", "测试用户：出现在任一列表中的物品占比，以及列表物品的平均训练事件数。";
    index: "Item index", "物品索引";
    exact: "Exact search: it misses nothing.", "精确检索：没有遗漏。";
    hnsw: "HNSW graph", "HNSW 图";
    recall_mean: "recall against exact search, mean over users", "相对精确检索的召回率（用户平均）";
    recall_p1: "one user in a hundred has at most", "百分之一的用户不高于";
    gates: "Gates", "检查项";
    gate: "Gate", "检查项";
    ruling: "Ruling", "结论";
    measure: "Measure", "量";
    value: "Value", "值";
    limits: "Limits", "限值";
    at_least: "at least", "至少";
    at_most: "at most", "至多";
    no_gates: "The gates were not asked about this run.", "尚未对本次运行做检查。";
    examples: "Some users", "用户示例";
    examples_text: "The first users of the results that have a history: what they had, the newest first, and what they get.", "结果中最前面的有历史的用户：其历史（最新在前）与得到的物品。";
    user: "User", "用户";
    events: "events", "个事件";
    had: "Had", "历史";
    gets: "Gets", "得到";
    nothing: "nothing", "无";
    nights: "Nights", "历次运行";
    nights_text: "The runs of this folder, the oldest first.", "同一目录下的运行，最早的在前。";
    run: "Run", "运行";
    night: "night", "次序";
    latest: "published", "已发布";
    experiment: "experiment", "实验";
    incomplete: "incomplete", "不完整";
    figures: "Figures", "数据表";
    part: "Range", "区间";
    count: "Count", "数量";
    none: "This run has none:", "本次运行没有：";
    no_training: "it has no record of a training.", "没有训练记录。";
    no_metrics: "it was not evaluated.", "没有评估。";
    no_results: "its results are not complete.", "结果不完整。";
    no_sample: "it keeps no sample of lists.", "没有抽样列表。";
    written_by: "Written by", "生成者：";
    theme: "The page follows the light or dark setting of the device.", "页面随设备的浅色或深色设置。";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_empty_and_every_translation_is_another_text() {
        let [en, zh] = [&EN, &ZH].map(|words| serde_json::to_value(words).unwrap());
        for (key, text) in en.as_object().unwrap() {
            let (en, zh) = (text.as_str().unwrap(), zh[key].as_str().unwrap());
            assert!(!en.is_empty() && !zh.is_empty() && en != zh, "{key}");
        }
    }
}
