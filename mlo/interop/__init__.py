"""Bridges to other libraries; none of them is needed to import one."""
