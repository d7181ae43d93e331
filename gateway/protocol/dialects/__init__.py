"""What each kind of call looks like on the wire, as data and a few pure functions, with one module per dialect.

 module        | dialects                | served at                                   |
---------------|-------------------------|---------------------------------------------|
 `responses`   | responses               | /v1/responses and below                     |
 `chat`        | chat, completions       | /v1/chat/completions, /v1/completions       |
 `messages`    | messages, count_tokens  | /v1/messages, /v1/messages/count_tokens     |
 `embeddings`  | embeddings              | /v1/embeddings                              |
 `images`      | images                  | /v1/images/generations, edits, variations   |
 `audio`       | speech, transcription   | /v1/audio/speech, transcriptions ...        |
 `moderations` | moderations             | /v1/moderations                             |
 `rerank`      | rerank                  | /v1/rerank                                  |

`dialect` defines what a dialect consists of. No step of the request handler knows a dialect's name. `openai_form` has
what OpenAI's dialects share, and `request_fields` reads numbers in requests.
"""
