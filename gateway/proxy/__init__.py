"""The path of one request from the client to the provider and back.

handler             runs the steps, and is the one exit through which every request leaves
admission           steps 1 to 3: authenticates, reads and routes
body_reading        step 2: reads and parses the body
body_budget         bounds the bytes that all bodies take together
form_spool          keeps large forms on disk
unnamed_models      step 3: the model of a request that names none
pinning             step 3: restricts a route to the maker of what a request continues, or to the caller's preference
offers              step 3: restricts a route to the upstreams that offer an operation
field_checks        step 3: refuses fields that change a price, or that name what others may have stored
reservation         the highest cost of a request, which its hold reserves
output_bound        how much output a hold covers if the body states no bound, and whether the provider gets that bound
admitting           step 4: reserves the hold, at once or after waiting in the queue
compactor           step 4: makes the summary that a request with a long conversation asks for
failover            step 5: tries the route's upstreams until one answers
upstream_body       step 5: the body that an upstream gets
refusals            step 5: which of several refusals the client receives
exchange            an admitted request with its client and its records
relay               step 6: passes the answer on to the client
upstream_answer     step 6: the headers and the body of an upstream's answer
whole_answer        step 6: reads an answer that is not a stream
large_answers       step 6: parses large answers and events off the event loop
media               step 6: passes on answers that are neither JSON nor events
stream_relay        step 6: passes on a stream of events
preamble            step 6: holds back what precedes the output of a stream
keep_alive          step 6: writes comments into a silent stream
early_stream        step 6: begins a stream before its provider has answered
output_cap          step 6: ends a stream before it costs more than its hold
turn_answer         step 6: an answer that the gateway stores
turn_stream         step 6: a stream that the gateway stores
answer_record       what is noted of an upstream's answer, for the settlement
answer_usage        the usage of an answer, reported or partly estimated
answered_price      the model by whose price an answer is charged
outcomes            the outcome of a request for each error, and what its client receives
settling            steps 7 and 8: decides what a request costs, posts it, and remembers the response
late_usage          fetches usages that were unknown when their requests were settled
dry_run             answers what would be decided about a request, without effect
price_explain       what a usage would cost, line by line
stored_answers      answers calls for responses that the gateway stores
background_runner   runs the background responses of one worker
background_client   the client of a background response while it runs
collecting_client   the client of a model call that the gateway makes for itself: it collects the answer
discarding_client   the client of a call whose answer the gateway needs only for its usage: it discards the answer
call_limit          how many dry runs and counts of tokens a key may make
snapshot            the configuration that a request runs on
"""
