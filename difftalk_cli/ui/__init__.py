"""`difftalk ui`: a local web page over the stages.

serve (HTTP, safety) -> page (what is seen, gradio) -> jobs (the queue) -> worker -> work (another process, where stages run)
"""
