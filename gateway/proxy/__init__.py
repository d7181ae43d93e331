"""One request on its way from the client to the provider and back.

handler     authenticates, runs the steps, and is the one exit where a request is settled and recorded
admission   steps 1 to 3: authenticate, read, route
admitting   step 4: reserves a hold, at once or in turn
body_reading  step 2: the body is read and understood
body_budget how much the bodies of requests may take together
form_spool  large forms on disk
unnamed_models  the model of a request that does not name it
field_checks  whether a route lets pass what changes a price or names what others may have stored
reservation the most that a request can cost, from what it says and hides
pinning     where a request must go because of what it goes on from
failover    step 5: asks the route's upstreams until one answers
upstream_body  what an upstream is sent of the caller's body, and what is added to it
output_bound   how much output is held where the body does not say, and whether the provider is told
refusals    which of several refusals the client is told
exchange    an admitted request with its client and its records
relay       step 6: passes the answer on to the client
stream_relay   passes on a stream of events
whole_answer   reads an answer that is no stream
output_cap     ends a stream before it costs more than its hold
upstream_answer  which headers of an upstream's answer go on, what its body is
answer_record  what is noted of an upstream's answer, and what the settlement is decided by
settling    steps 7 and 8: decides what a request costs, posts it, remembers the response
answered_price  by which model's price an answer is charged
price_explain  what a usage would cost, line by line
answer_usage  what an answer used, reported or in part estimated
large_answers  has large answers and events understood off the event loop
media       passes on answers that are neither JSON nor events
preamble    what comes before the output of a stream, and waits for it
keep_alive  comments in a silent stream
early_stream  a stream that begins before its provider has answered
dry_run     answers what would be decided, without doing it
call_limit     how many dry runs and counts of tokens a key may make
offers         which upstreams of a route offer an operation
snapshot    the configuration that a request runs on
kept_answer an answer that the gateway keeps, as its client is shown it
background_runner   runs the background responses of this worker
background_client   the client that a background response has while it runs
compactor   makes a summary of what goes before a request that wants it
late_usage  asks providers later for usages that were not known
nobody_client  the client of such a question
collecting_client  the client of a call that the gateway makes for itself
outcomes    how a request ends for each error, and what its client is told
kept_stream passes on a stream that the gateway keeps
stored_answers   answers calls about responses that the gateway keeps itself
"""
