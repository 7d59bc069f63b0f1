"""Majordomo Steward: an LLM gateway inside the customer's network.

    headers --authenticate--> Caller --detect--> Route --rewrite--> Outbound --forward--> relay + capture --> Exchange
                                                                                                                 |
       while the caller waits -----------------------------------------------------------------------------------|---
       after the last byte                                                                                       v
                                                      AfterResponse.submit(exchange)   inline | spool | queue
                                                                                                                 |
       settle:   Exchange --meter--> Usage|None --price--> Cost|None --store--> BodyRef --> Record --> Ledger

The way of a request     proxy.py first; then authenticate.py detect.py rewrite.py forward.py lane.py capture.py;
                         in front of them listener.py cycle.py refusals.py.
After the last byte      settle.py; it calls meter.py, body_object.py and price.py (pricebook.py pricelist.py
                         pricemoves.py pricenames.py rates.py). settling.py does so for a durable queue, round by round
                         (in_hand.py putting.py backoff.py); reconcile.py looks for what went wrong nevertheless.
Through a cloud's queue  sealed_message.py (what lies in it), claims.py (large calls, by way of their bucket),
                         carrier.py (SQS, Pub/Sub, memory), consuming.py (batches that a host hands over).
The nouns and the seams  exchange.py destination.py errors.py ports.py words.py.
On a schedule            clockwork.py runs export.py (export_record.py), which tells Butler of rows, through
                         logged_butler.py (egress_chain.py), which keeps what was told; egress_retention.py ends
                         that, in time.
Butler                   sync.py (paging.py), registering.py, managed.py.
What may be said         egress.py (everything that may leave), domains.py (by value), ingress.py (what Butler
                         may say), log.py and log_fields.py,
                         metrics.py (metric_names.py metric_files.py counted_calls.py).
Settings and secrets     settings.py (setting_table.py values.py body_store_url.py), seal.py.
Putting it together      wiring/ (relay.py settler.py viewer.py commands.py: what each of them runs on, and the
                         pieces these are made of), app.py, cli.py (spool_command.py queue_command.py
                         reconcile_command.py egress_command.py egress_log_command.py export_command.py
                         registration_command.py), version.py; api/ are our own routes. handlers/ beside
                         this package: container.py, supervisor.py, settler.py.
Bytes and providers      wire/ and providers/: no socket, no clock.
The world                adapters/: PostgreSQL, S3, Google Cloud Storage, folders, spool, price list, egress proxy,
                         memory.
The demo                 demo.py demo_telling.py standin/.
"""
