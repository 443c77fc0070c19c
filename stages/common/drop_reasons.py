"""Drop reasons: the names under which preprocess counts the rows that it drops, and which the report judges."""

# For each drop reason the key of params.yaml's preprocess section that decides, and the reason in words.
REASONS = {
    "not_an_object": ("invalid_row", "the row is not a JSON object"),
    "wrong_type": ("invalid_row", "a value is missing or has the wrong type for the format"),
    "not_text": ("invalid_row", "the content of a message is not text"),
    "image": ("invalid_row", "the row has an image, which a text model cannot read"),
    "audio": ("invalid_row", "the row has audio, which a text model cannot read"),
    "video": ("invalid_row", "the row has a video, which a text model cannot read"),
    "loss_switch": ("invalid_row", "a message's loss switch cannot be followed"),
    "unknown_role": ("invalid_row", "a message has an unknown role"),
    "roles_out_of_order": ("invalid_row", "roles do not alternate"),
    "empty_question": ("invalid_row", "a user message is empty"),
    "invalid_unicode": ("invalid_row", "the text is not UTF-8 (preprocess.files: encoding), or has a lone surrogate"),
    "template_refused": ("invalid_row", "the chat template rejects the row"),
    "lost_by_template": ("invalid_row", "the chat template leaves out a part of the row"),
    "prompt_mismatch": ("invalid_row", "the row does not begin with the prompt that is served"),
    "no_supervised_token": ("invalid_row", "no token of the row is in the loss"),
    "empty_answer": ("empty_answer", "the answer is empty or missing"),
    "control_character": ("control_characters", "the text has a control character"),
    "special_token": ("special_tokens", "the text has a special token of the model"),
    "other_language": ("languages", "the text is in another language"),
    "secret": ("secrets", "the text has what looks like a secret, such as an API key"),
    "personal_data": ("personal_data", "the text has what looks like personal data"),
    "contaminated": ("decontaminate_ngram", "the text has an n-gram of data/benchmarks"),
    "over_length": ("over_length", "the row has more than preprocess.max_length tokens"),
    "duplicate": ("duplicates", "an earlier row has the same content"),
    "near_duplicate": ("near_duplicates", "an earlier row has nearly the same content"),
}
# Rows that the params ask to drop. They do not count against preprocess.max_dropped_share, except for rows in another
# language, which have a limit of their own or count there.
WANTED = {"contaminated", "duplicate", "other_language", "personal_data", "secret"}
