//! The STABLE functions of PostgreSQL that depend on nothing but their arguments and kck's fixed settings.

/// `pg_proc.oid`. Most are STABLE for the time zone or for the output functions of their
/// arguments' types. Left out are those that read the clock, the catalogues, the session or a setting that
/// kck does not fix (`default_text_search_config`), and those that read text as any type may (a date's
/// input knows the word `now`).
const SETTLED: &[u32] = &[
    384, 395,  // array_to_string
    939,  // generate_series(timestamptz, timestamptz, interval)
    1171, // date_part(text, timestamptz)
    1174, 1176, // timestamptz(date), timestamptz(date, time)
    1177, 1179, 1180, 2023, 2030, // jsonb_path_…_tz
    1178, // date(timestamptz)
    1189, 1190, // timestamptz + interval, timestamptz - interval
    1217, 1284, // date_trunc of a timestamptz
    1285, 1290, // quote_literal, quote_nullable of any type
    1305, 1306, 1307, // overlaps of timestamptz and interval
    1388, // timetz(timestamptz)
    1713, 1714, 1717, 1813, // length, convert_from, convert_to, convert: of encodings
    1768, 1770, 1772, 1773, 1774, 1775, 1776, 2049, // to_char
    1777, 1778, 1780, // to_number, to_timestamp, to_date by a template
    2003, 2004, // text || any, any || text
    2019, 2027, 2028, // time(timestamptz), timestamp(timestamptz), timestamptz(timestamp)
    2351, 2352, 2353, 2354, 2355, 2356, 2357, // date against timestamptz
    2377, 2378, 2379, 2380, 2381, 2382, 2383, // timestamptz against date
    2520, 2521, 2522, 2523, 2524, 2525, 2526, // timestamp against timestamptz
    2527, 2528, 2529, 2530, 2531, 2532, 2533, // timestamptz against timestamp
    2549, // interval + timestamptz
    3058, 3059, // concat, concat_ws
    3153, 3154, 3155, 3156, 3176, 3787, // array_to_json, row_to_json, to_json, to_jsonb
    3175, 3197, 3267, 6276, 6280, 6281, 6282,
    6284, // json_agg, json_object_agg, jsonb_agg, STRICT and UNIQUE too
    3173, 3174, 3180, 3196, 3265, 3266, 3268, 3269, 6275, 6277, 6278, 6279, 6283, 6285, 6286,
    6287, // … and what these aggregates are made of
    3198, 3199, 3200, 3201, 3271, 3272, 3273, 3274, // json_build_…, jsonb_build_…
    3204, 3205, 3490,
    3491, // json_to_record and its kin; the types they read are looked at where they are called
    3462, 3463, // make_timestamptz
    3539, 3540, // format
    3811, 3812, 3823, 3824, // money from and to numbers
    4135, // RANGE frames of timestamptz
    6203, // extract(text, timestamptz)
    6221, 6223, // date_add, date_subtract
    6334, 6335, // AT LOCAL
];

/// Whether a STABLE function of `pg_catalog` depends on its arguments alone.
pub(super) fn settled(function: u32) -> bool {
    SETTLED.contains(&function)
}
