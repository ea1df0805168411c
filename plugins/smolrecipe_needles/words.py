"""What haystacks are made of: keys with the values that they may have, and sentences.

No word stands in two places, so that a value is known by itself. Words are short, and few: a tokenizer of seven hundred
tokens has a token for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VALUES: Mapping[str, tuple[str, ...]] = {
    key: tuple(values.split())
    for key, values in {
        "colour": "red blue green white black pink grey brown",
        "animal": "cat dog horse cow pig goat sheep mouse",
        "city": "paris rome oslo cairo lima delhi tokyo bern",
        "fruit": "apple pear plum lemon fig grape peach mango",
        "metal": "iron gold zinc lead tin silver copper nickel",
        "tree": "oak pine birch elm ash cedar maple willow",
        "bird": "owl crow swan gull hawk robin duck heron",
        "fish": "cod eel carp trout tuna bass perch salmon",
        "drink": "tea milk beer wine juice cocoa cider water",
        "tool": "saw axe drill rake spade chisel hammer pliers",
        "river": "nile rhine seine volga ebro indus tiber thames",
        "gem": "ruby opal pearl topaz jade amber onyx agate",
        "dance": "waltz tango samba polka rumba salsa jive reel",
        "sound": "flute harp viola cello horn drum lute organ",
        "cloth": "wool silk linen denim satin felt velvet cotton",
        "grain": "rice oats rye barley maize wheat millet spelt",
    }.items()
}

NOISE: tuple[str, ...] = (
    "the grass is wet.",
    "the sun is up.",
    "here we go again.",
    "there and back we went.",
    "it was a long day.",
    "nobody said a word.",
    "the road goes on.",
    "we sat down to rest.",
    "the night was still.",
    "then it began to rain.",
)

SAYING = "{key} {value}."
ASKING = "which {key}?"
# An answer says its needle as documents do, after a full stop: what pretraining has taught is of use to it.
ANSWER = "yes. {key} {value}."


def words_in(sentence: str) -> int:
    """Words, full stops and question marks: tokens, where a tokenizer has learned every word."""
    return len(re.findall(r"\w+|[.?]", sentence.format(key="key", value="value")))
