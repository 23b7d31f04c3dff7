"""What stands before a recommender that answers over HTTP; imports neither mlflow nor registry.

command  the process: arguments, port, signals            decode   from a body to a call
app      the paths                                        loaded   a version that answers, by its workers
edge     ids, Host, token, errors in one line, the log    workers  a worker as the service sees it
door     which calls are let in                           worker/  the process that holds a version
swap     which version answers                            open_files  how many connections there may be
"""
