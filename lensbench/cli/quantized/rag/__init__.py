"""Documents to retrieve from: build, add, query, info, check.

Examples:

    lensbench rag build faq.csv -o faq-index

    lensbench rag query faq-index "How do I get my money back?"
"""
