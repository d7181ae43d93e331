"""Wire formats: request bodies, server-sent events, usage, headers. Pure.

operations           the table of operations under /v1
azure_paths          Azure's paths for the same operations
error_forms          the form of errors that concern no operation
dialects             what one kind of call looks like: requests, answers, streams, errors
request_body         the fields of a request that the gateway reads
decoded_body         a body decoded, in one go or in slices
request_facts        the fields of a request that bear on its price
body_changes         what the gateway changes in a body
multipart            where the parts of a form with files stand
form_body            the fields of a form that the gateway reads
audio_length         how long an audio file plays
audio_containers     how long MP4 and WebM files play
audio_frames         how long a file of frames plays
attachments          inline files in a body
attribution          whom a request is for: its tags, and the end user
stored_references    what a request names that only its provider can read
request_work         what a request lets a provider read and do beyond its body
output_size          how much an answer put out, where no usage says so
token_estimates      how many tokens a body holds, probably and at most
content_codings      request bodies that arrive compressed
stream_decoder       decodes what is compressed, piece by piece
body_bounds          how much of a body may have to be understood
usage_reader         reads the usage of any answer
usage_fields         the table of where each dialect keeps its usage
quantities           the used quantities that prices have rates for
partition            splits overlapping counts into parts
counts               numbers in JSON from outside
hosted_calls         calls of hosted tools
reported_cost        the cost that an upstream reports
sse_framing          splits a stream of server-sent events
sse_framer           cuts a stream that is passed on into whole events
sse_observer         reads usage and progress from these events
usage_dropping       a framer that leaves out the usage that a caller did not ask for
delta_head           how the deltas of a stream begin
oversized_event      an event that is too large to hold
opening_event        the event that shows an answer before its output
response_events      the events that end a stream of the Responses API
text_sample          how much text a stream carries, for estimates
retry_after          when an upstream asks to be called again
rate_limit_headers   what remains of the rate limits, as headers
json_slices          large JSON, parsed in short calls
byte_search          searches long bytes in short calls
json_splice          changes members of a JSON object, and no other byte
large_json           what a large answer or event tells
lenient_json         JSON of upstreams, parsed as leniently as clients do
timestamps           ISO 8601
moments              dates and times as people write them
wording              how messages count
header_fields        the size of header fields, and control characters in them
forwarded_headers    which headers pass between clients and upstreams
provider_errors      an upstream's error in the standard form
model_spelling       how names of models are compared
provider_preferences the `provider` object of a request
"""
